# SPDX-License-Identifier: BSD-3-Clause
"""One libvirtd for the tests of a program: what it needs, and stories on it that are told a step a test.

Environment: VTPM names the program under test; the swtpm programs and helpers stand beside it. VTPM_TEST_CACHE: kernel
and initramfs. VTPM_TEST_GUEST=skip skips every test by name.
"""
import atexit
import contextlib
import os
import sys

HERE = os.path.dirname(os.path.realpath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "..", "qemu"))
import guest  # noqa: E402
import libvirt as lv  # noqa: E402
from device import VTPM, Skip  # noqa: E402
from swtpm import COMPAT  # noqa: E402

LIBEXEC = os.environ.get("VTPM_LIBEXEC_DIR", os.path.dirname(VTPM))
shared, stories = {}, {}


def cache():
    """The folder that has the guest, or the test is skipped."""
    if os.environ.get("VTPM_TEST_GUEST") == "skip":
        raise Skip("VTPM_TEST_GUEST=skip")
    if "why" not in shared:
        shared["why"] = lv.missing() or guest.missing()
        if not shared["why"]:
            try:
                shared["cache"] = guest.prepare()
            except guest.GuestError as problem:
                shared["why"] = str(problem)
    if shared["why"]:
        raise Skip(shared["why"])
    return shared["cache"]


def host():
    """One libvirtd for all tests."""
    kept = cache()
    if "host" not in shared:
        shared["host"] = lv.Libvirt(COMPAT, LIBEXEC)
        atexit.register(shared["host"].end)
        shared["host"].start(kept)
    return shared["host"]


@contextlib.contextmanager
def domain(name, *args, on=None, **options):
    """ON: another libvirt than the one for all."""
    at = on or host()
    at.use(at.programs)
    with lv.Domain(at, name, cache(), *args, **options) as one:
        try:
            yield one
        except Exception:
            with contextlib.suppress(OSError):
                print("# --- the TPM's log\n# " + at.tpm_log(one).replace("\n", "\n# "))
            raise


def start_theirs(one):
    """libvirt makes the socket QEMU's as soon as it is there, and Debian's swtpm then fails where it comes to its chmod
    too late."""
    try:
        one.start()
    except lv.GuestError as problem:
        if "Connection refused" not in str(problem):
            raise
        one.start()


def tell(name, number, make):
    """Step NUMBER of the story NAME, which MAKE(host, cache) begins. A step that fails ends it: later ones fail too."""
    at = host()
    if name not in stories:
        stories[name] = (make(at, shared["cache"]), [])
    story, done = stories[name]
    if done != list(range(number)):
        raise guest.GuestError("an earlier step of this domain failed")
    try:
        seen = getattr(story, story.steps[number][1])()
    except Exception:
        with contextlib.suppress(OSError):
            print("# --- the TPM's log\n# " + story.back.log()[-3000:].replace("\n", "\n# "))
        story.end()
        raise
    done.append(number)
    if len(done) == len(story.steps):
        story.end()
    return seen


def add_steps(namespace, name, label, story, *args):
    """A test for each step of STORY."""
    for number, (what, _) in enumerate(story.steps):
        def test(place, number=number):
            del place
            return tell(name, number, lambda at, kept: story(at, kept, *args))
        test.__doc__ = f"{label}: {what}"
        namespace[f"test_{name}_{number}"] = test
