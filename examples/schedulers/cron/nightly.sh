#!/bin/sh
# One night: build the dbt project, then tell receivers what changed. cron and systemd run it.
# Its exit code is dbt's, so a failed test is a failed night; or 75 if another night is still running.
set -u

# what cron does not know: where everything is, and the receivers of alerts; see nightly.env.example
settings=${NIGHTLY_ENV:-$(dirname "$0")/nightly.env}
set -a
. "$settings" || exit 2
set +a
cd "$DBT_PROJECT_DIR" || exit 2

# a DuckDB file has one writer, so only one night may run; the lock ends with this shell
exec 9> nightly.lock
if ! flock --nonblock 9; then
    echo "the last night is still running: nothing was done" >&2
    exit 75
fi

rm -f target/run_results.json
dbt --no-use-colors build
code=$?
# dbt's invocation id is the run id in the ledger
test -f target/run_results.json &&
    python3 -c 'import json; print("run", json.load(open("target/run_results.json"))["metadata"]["invocation_id"])'

# also after a failed build; an alert that cannot be sent does not fail the night
if env | grep -Eq '^DBT_ONNX_(SLACK_URL|TEAMS_URL|WEBHOOK_URL|SMTP_URL)=.'; then
    dbt-onnx alert || true
fi
exit $code
