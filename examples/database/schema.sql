-- What the example works on: two tables of a service, the service's role, and a role for Levee with the rights it needs.
CREATE ROLE app LOGIN;
CREATE ROLE levee LOGIN;
CREATE TABLE email_verification_tokens (
  token_id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
  expires_at timestamptz NOT NULL
);
CREATE INDEX ON email_verification_tokens (expires_at);
CREATE TABLE sessions (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  expires_at timestamptz NOT NULL
);
CREATE INDEX ON sessions (expires_at);
GRANT ALL ON email_verification_tokens, sessions TO app;
-- UPDATE locks the rows that are deleted.
GRANT SELECT, UPDATE, DELETE ON email_verification_tokens, sessions TO levee;
-- For the watchdog: seeing the statements of others, and cancelling them.
GRANT pg_read_all_stats, pg_signal_backend TO levee;
-- 1,000 tokens that have expired and 10 that have not; 500 sessions that expired two days ago and 10 an hour ago.
INSERT INTO email_verification_tokens (expires_at) SELECT now() - interval '1 hour' FROM generate_series(1, 1000);
INSERT INTO email_verification_tokens (expires_at) SELECT now() + interval '1 hour' FROM generate_series(1, 10);
INSERT INTO sessions (expires_at) SELECT now() - interval '2 days' FROM generate_series(1, 500);
INSERT INTO sessions (expires_at) SELECT now() - interval '1 hour' FROM generate_series(1, 10);
