# SPDX-License-Identifier: BSD-3-Clause
"""A program killed, or lied to, at one of its steps that name or sync a file (killed_names.c)."""
import os
import subprocess

from device import VTPM, Skip

HERE = os.path.dirname(os.path.realpath(__file__))


def killer(place):
    """The library that does it."""
    library = os.path.join(place.folder, "killed_names.so")
    try:
        subprocess.run(["cc", "-shared", "-fPIC", "-D_GNU_SOURCE", "-o", library, os.path.join(HERE, "killed_names.c"),
                        "-ldl"], check=True, stderr=subprocess.DEVNULL, timeout=60)
    except (OSError, subprocess.CalledProcessError):
        raise Skip("there is no compiler to build killed_names.c") from None
    return library


def run_killed(place, library, name, number, *args, fault="KILL_AT"):
    """Runs vtpm; the process called NAME, it or a helper, is killed at its step NUMBER; or with LIE_AT told of it that
    it failed."""
    return subprocess.run([VTPM, *args, "--config", place.config], stdin=subprocess.DEVNULL, capture_output=True,
                          env={**place.env, "LD_PRELOAD": library, fault: str(number), "KILL_NAME": name,
                               "ASAN_OPTIONS": "verify_asan_link_order=0:" + os.environ.get("ASAN_OPTIONS", "")},
                          timeout=60, check=False)
