"""Run one night as cron does: the line of the crontab, with /bin/sh and cron's bare environment.

Only the path /srv/shop is another one, and nightly.env is written. State and names are what cron mails: what the job
printed, and its exit code.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

recipe, here = Path(sys.argv[1]), Path.cwd()
shutil.copy(recipe / "nightly.sh", here)
kept = {"PATH"} | {name for name in os.environ if name.startswith("DBT_")}
settings = [f"{name}='{os.environ[name]}'\n" for name in sorted(kept)]
(here / "nightly.env").write_text("".join(settings), encoding="utf-8")

line = (recipe / "crontab").read_text(encoding="utf-8").splitlines()[-1]
command = re.fullmatch(r"(?:\S+ ){5}(.*)", line)[1].replace("/srv/shop", str(here))  # type: ignore[index]
bare = {"HOME": os.environ["HOME"], "LOGNAME": "dbt", "SHELL": "/bin/sh", "PATH": "/usr/bin:/bin"}
done = subprocess.run(
    ["/bin/sh", "-c", command], env=bare, cwd=os.environ["HOME"], check=False,
    stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
)  # fmt: skip
print(done.stdout)
answer = {
    "state": "failed" if done.returncode else "success",
    "exit_code": done.returncode,
    "run_ids": re.findall(r"^run (\S+)$", done.stdout, flags=re.MULTILINE),
    "failed": re.findall(r"Failure in test (\S+)", done.stdout),
    "version": "",
}
print(json.dumps(answer))
