"""A process that has everything imported, and runs commands in forks of itself, in which the n-th write can fail.

Started by `crash_helpers.Commands`, with `faults.c` preloaded; orders come as JSON, one a line.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import sys
import time
import traceback
from pathlib import Path
from typing import Any

import wsivit.__main__


def run(order: dict[str, Any], faults: ctypes.CDLL) -> None:
    """Run a command and leave, with its exit code."""
    os.chdir(order["folder"])
    for descriptor, name in ((1, order["stdout"]), (2, order["stderr"])):
        os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), descriptor)
    sys.argv = ["wsivit", *order["words"]]
    n, error, kinds, for_good = order["fault"]
    faults.fault_arm(order["folder"].encode(), ctypes.c_long(n), error, kinds, for_good)
    code = 1
    try:
        wsivit.__main__.main()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        Path(order["stdout"] + ".seen").write_text(str(faults.fault_seen()))
        os._exit(code)


def main() -> None:
    exec(sys.argv[2])  # what is to be imported, or made smaller
    faults = ctypes.CDLL(sys.argv[1])
    faults.fault_seen.restype = ctypes.c_long
    gc.freeze()  # the forks need not look through what was imported
    for line in sys.stdin:
        order, began = json.loads(line), time.monotonic()
        child = os.fork()
        if child == 0:
            run(order, faults)
        if order["after"] is not None:
            time.sleep(order["after"])
            os.kill(child, order["signal"])
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        print(json.dumps({"code": code, "seconds": time.monotonic() - began}), flush=True)
    gc.unfreeze()


if __name__ == "__main__":
    main()
