# The units of `packaging/` under a manager of systemd, in namespaces of its own. $1: a folder that has the units and
# `levee.yaml`; what happens is written there.
set -u
cd "$1"
mount -t tmpfs tmpfs /run
mkdir -p /run/systemd/system /run/xdg /run/config/systemd/user
export XDG_RUNTIME_DIR=/run/xdg XDG_CONFIG_HOME=/run/config
cp -r levee.service levee.service.d levee.socket /run/config/systemd/user/
/lib/systemd/systemd --user --log-target=console > manager.log 2>&1 &

# Waits until a command succeeds.
wait_for() {
  for _ in $(seq 400); do
    "$@" > /dev/null 2>&1 && return
    sleep 0.05
  done
  echo "waited in vain: $*"
  exit 1
}
of_service() { systemctl --user show levee.service --property "$1" --value; }
is() { [ "$(of_service "$1")" = "$2" ]; }
# Runs systemctl, and says how it went.
run() {
  systemctl --user "$@" || { echo "systemctl $*: $?"; systemctl --user status --no-pager levee.service; exit 1; }
  echo "$1: $(of_service ActiveState), $(of_service StatusText)"
}

for _ in $(seq 100); do
  systemctl --user is-system-running > /dev/null 2>&1 && is_up=yes && break
  sleep 0.05
done
[ -n "${is_up:-}" ] || { cat manager.log; exit 77; }
run start levee.socket
run start levee.service
grep -E '^(CapEff|NoNewPrivs|Seccomp):' "/proc/$(of_service MainPID)/status"
touch started
for _ in 1 2 3; do
  run restart levee.service
done
systemctl --user reload levee.service || exit 1
# The signal is sent by then, and no more.
wait_for is StatusText "ready; the last reload: applied"
wait_for is ActiveState active
echo "reload: $(of_service StatusText)"
touch restarted
wait_for test -e clients-left
kill -STOP "$(of_service MainPID)"
wait_for is NRestarts 1
wait_for is ActiveState active
echo "after a hang: $(of_service StatusText)"
systemctl --user stop levee.socket levee.service
echo "stop: $(of_service ActiveState)"
