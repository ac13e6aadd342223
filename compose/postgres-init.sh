#!/usr/bin/env bash
# Runs once, when the database of docker-compose.yml is created. Creates the tables of the demonstration backend, its role, and
# a role for Levee with the minimal rights. The passwords come from the environment.
set -euo pipefail
psql -v ON_ERROR_STOP=1 -v app_password="${APP_PASSWORD:?}" -v levee_password="${LEVEE_PASSWORD:?}" \
  --username postgres --dbname app --no-psqlrc --quiet <<'SQL'
CREATE ROLE app LOGIN PASSWORD :'app_password';
CREATE ROLE levee LOGIN PASSWORD :'levee_password';

CREATE TABLE email_verification_tokens (
  token_id uuid PRIMARY KEY DEFAULT gen_random_uuid(), user_id uuid, new_email text, token text, expires_at timestamptz,
  created_at timestamptz DEFAULT now(), used_at timestamptz);
CREATE INDEX ON email_verification_tokens (expires_at);
CREATE TABLE calls (
  call_id uuid PRIMARY KEY DEFAULT gen_random_uuid(), conversation_id uuid, caller_id uuid, call_type text, status text,
  started_at timestamptz, ended_at timestamptz, duration int);
CREATE INDEX ON calls (started_at);

GRANT SELECT, INSERT, UPDATE, DELETE ON email_verification_tokens, calls TO app;
GRANT SELECT, UPDATE, DELETE ON email_verification_tokens TO levee; -- UPDATE is needed to lock rows
GRANT SELECT, UPDATE ON calls TO levee;
GRANT pg_read_all_stats, pg_signal_backend TO levee;
SQL
