# SPDX-License-Identifier: BSD-3-Clause
"""The Debian package, for the tests that install it (in an overlay, see overlay.py)."""
import contextlib
import functools
import os
import subprocess

from device import VTPM, Skip
from overlay import Overlay, Unavailable

BUILD_LIMIT = 600


def make_deb(**variables):
    env = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS", "VTPM_"))}
    return subprocess.run(["make", "-s", "deb"], cwd=os.path.dirname(VTPM),
                          env=dict(env, MAKEFLAGS="-j%d" % os.cpu_count(), **variables), stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=BUILD_LIMIT, check=False)


@functools.lru_cache
def build():
    """Makes it where it is not made yet; returns its path."""
    folder = os.path.dirname(VTPM)
    if os.environ.get("VTPM_TEST_GUEST") == "skip":
        raise Skip("what takes long is left out")
    if not os.path.exists(os.path.join(folder, "Makefile")):
        raise Skip("%s is no build folder" % folder)
    done = make_deb()
    found = [name for name in os.listdir(os.path.join(folder, "deb")) if name.endswith(".deb")]
    if done.returncode != 0 or len(found) != 1:
        raise AssertionError("make deb: status %d, left %r\n%s" % (done.returncode, found, done.stdout[-4000:]))
    return os.path.join(folder, "deb", found[0])


@contextlib.contextmanager
def copy_of_host():
    """An overlay, or the test is skipped. Manual pages are not indexed in it, and what dpkg writes is not synced."""
    try:
        with Overlay() as host:
            host.run("sh", "-c", "rm -f /var/lib/man-db/auto-update; echo force-unsafe-io >/etc/dpkg/dpkg.cfg.d/quick")
            yield host
    except Unavailable as lack:
        raise Skip("no overlay of this host: %s" % lack) from lack
