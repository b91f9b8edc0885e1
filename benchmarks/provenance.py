"""What a result says about how it came about."""

import os
import platform
import re
import subprocess
import sys

import torch


def provenance() -> dict[str, str]:
    """The command, the commit and the machine of the process that asks."""
    return {
        "command": without_places(" ".join(["python", *sys.argv])),
        "commit": subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True).stdout.strip(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}, "
        f"{torch.get_num_threads()} threads",
    }


def without_places(text: str) -> str:
    """The same without folders of one machine."""
    return re.sub(r'(?<![\w.])/(?:[^\s/"]+/)+', "", text)
