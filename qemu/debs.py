# SPDX-License-Identifier: BSD-3-Clause
"""Files out of Debian packages that are downloaded, never installed.

  folder = debs.fetch(cache, "loaders", (("shim-signed", "usr/lib/shim/shimx64.efi.signed", "BOOTX64.EFI"), ...))

leaves there each package's file (a pattern) under its name; does nothing where all are there already.
"""
import fcntl
import glob
import os
import subprocess
import tempfile

from tpms import GuestError

LIMIT = 300


def run(*command, cwd=None, limit=120):
    done = subprocess.run(command, cwd=cwd, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=limit, check=False)
    if done.returncode != 0:
        raise GuestError(f"{' '.join(command)}: exit {done.returncode}: {(done.stderr or done.stdout).strip()}")


def fetch(cache, name, files):
    folder = os.path.join(os.path.abspath(cache), name)
    os.makedirs(folder, exist_ok=True)
    # tests that run side by side share one cache
    with open(os.path.join(folder, "lock"), "w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not all(os.path.exists(os.path.join(folder, place)) for _, _, place in files):
            _download(folder, files)
    return folder


def _download(folder, files):
    with tempfile.TemporaryDirectory(dir=folder) as work:
        # the sandbox user of apt could not write into a folder of ours
        run("apt-get", "-q", "-o", f"APT::Sandbox::User={_user()}", "download", *sorted({package for package, _, _ in files}),
            cwd=work, limit=LIMIT)
        for name in os.listdir(work):
            run("dpkg", "-x", name, "unpacked", cwd=work)
        for package, pattern, place in files:
            found = glob.glob(os.path.join(work, "unpacked", pattern))
            if len(found) != 1:
                raise GuestError(f"the package {package} has not one {pattern} but {len(found)}")
            os.replace(found[0], os.path.join(folder, place))


def _user():
    return subprocess.run(["id", "-un"], capture_output=True, text=True, timeout=60, check=True).stdout.strip()
