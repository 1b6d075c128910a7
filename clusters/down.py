"""Takes a cluster on your own machines down: python clusters/down.py clusters/on-premises.yaml.

`ray down` alone leaves Ray running on the workers. This stops it on every machine, looks whether anything is left, and
ends with 1 where that is so or a machine can't be reached.
"""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

from ruamel.yaml import YAML

STOP = "~/rfray-env/bin/ray stop --force > /dev/null; ~/rfray-env/bin/ray stop"
"""The second finds nothing, where the first has left nothing."""
NOTHING = "Did not find any active Ray processes"
SSH = ["ssh", "-o", "BatchMode=yes", "-o", "ConnectTimeout=10", "-o", "StrictHostKeyChecking=no"]
SSH += ["-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR"]  # as ray up has it


def main(file: str) -> int:
    """Prints a line a machine; 0 where all is gone."""
    with open(file) as text:
        config = YAML(typ="safe").load(text)
    provider, auth = config["provider"], config["auth"]
    if provider["type"] != "local":
        sys.exit(f"{file}: its machines end with  ray down {file}")
    subprocess.run(["ray", "down", "--yes", file], check=False)  # the head goes first: it starts workers again
    key = ["-i", auth["ssh_private_key"]] if "ssh_private_key" in auth else []

    def stop(address: str) -> str:
        words = [*SSH, *key, f"{auth['ssh_user']}@{address}", STOP]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        if NOTHING in done.stdout:
            return "nothing of Ray is left"
        return "RAY MAY STILL RUN: " + " ".join((done.stderr or done.stdout).split())

    addresses = [provider["head_ip"], *provider["worker_ips"]]
    with ThreadPoolExecutor() as at_once:
        found = dict(zip(addresses, at_once.map(stop, addresses), strict=True))
    for address, what in found.items():
        print(f"{address}: {what}")
    return int(any("MAY STILL" in what for what in found.values()))


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    sys.exit(main(sys.argv[1]))
