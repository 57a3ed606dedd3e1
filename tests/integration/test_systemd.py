#!/usr/bin/python3
# SPDX-License-Identifier: BSD-3-Clause
"""The package's units under systemd: Debian's, the first process of a guest with Debian's kernel. The package is
installed there by dpkg; what is tested runs inside, as systemd_guest.py, whose lines are these here."""
import glob
import os
import re
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.realpath(__file__))
QEMU = os.path.join(os.path.dirname(os.path.dirname(HERE)), "qemu")
sys.path.insert(1, QEMU)
from device import Skip, VTPM, die_with_parent  # noqa: E402
from guest import accelerator  # noqa: E402
from package import build  # noqa: E402

BOOT_LIMIT = 600  # half a minute where nothing else runs
PYTHON = "/usr/bin/python3"
GUEST = "systemd_guest"

# Of Debian's packages. What is not a program is a file that one reads.
PROGRAMS = """
    /lib/systemd/systemd /lib/systemd/systemd-journald /usr/bin/systemctl /usr/bin/journalctl /usr/bin/systemd-analyze
    /usr/bin/systemd-tmpfiles /usr/bin/setpriv /usr/bin/install
    /usr/bin/dpkg /usr/bin/dpkg-deb /usr/bin/dpkg-query /usr/bin/dpkg-split /usr/bin/dpkg-divert /usr/bin/dpkg-trigger
    /usr/bin/tar /usr/bin/find /usr/bin/od /usr/bin/grep /usr/bin/sed /usr/bin/sort /usr/bin/readlink /usr/bin/mktemp
    /sbin/ldconfig /sbin/start-stop-daemon /usr/bin/getent /usr/bin/gpasswd /usr/sbin/groupadd
    /usr/sbin/useradd /etc/login.defs /etc/nsswitch.conf
    """.split()
UNITS = """
    sysinit.target basic.target sockets.target paths.target slices.target timers.target local-fs.target
    local-fs-pre.target swap.target shutdown.target umount.target multi-user.target network.target
    systemd-journald.service systemd-journald.socket systemd-journald-dev-log.socket
    """.split()
FILES = {
    "etc/passwd": "root:x:0:0:root:/root:/bin/sh\nlibvirt-qemu:x:64055:64055::/var/lib/libvirt:/bin/sh\n"
                  "nobody:x:65534:65534::/nonexistent:/bin/sh\n",
    "etc/group": "root:x:0:\nshadow:x:42:\nutmp:x:43:\nlibvirt-qemu:x:64055:\nnogroup:x:65534:\n",
    "etc/shadow": "root:*:1::::::\n", "etc/gshadow": "root:*::\n",
    "etc/machine-id": "0123456789abcdef0123456789abcdef\n",
    "var/lib/dpkg/status": "",
    "etc/systemd/system/tests.service":
        "[Unit]\nWants=systemd-journald.service\nAfter=sockets.target systemd-journald.service\n"
        "[Service]\nType=oneshot\nStandardOutput=tty\nStandardError=tty\nTTYPath=/dev/ttyS0\n"
        "Environment=PATH=/usr/sbin:/usr/bin VTPM=/usr/bin/vtpm PYTHONDONTWRITEBYTECODE=1\n"
        "ExecStart=/usr/bin/python3 -E -s -S /tests/%s.py\nExecStopPost=/usr/bin/busybox poweroff -f\n" % GUEST,
}


def python_pairs():
    """What the guest's program imports. Compiled files that stand in the place of their source are taken as they are."""
    code = ("import sys; sys.path.insert(0, %r); import %s; import encodings.ascii, encodings.latin_1\n"
            "for m in list(sys.modules.values()):\n"
            "    print(getattr(m, '__file__', None), getattr(m, '__cached__', None))" % (HERE, GUEST))
    done = subprocess.run([PYTHON, "-E", "-s", "-S", "-c", code], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, check=True,
                          text=True, timeout=60)
    found = {"usr/bin/python3": os.path.realpath(PYTHON)}
    for line in done.stdout.splitlines():
        file, cached = line.split()
        if file.startswith(HERE):
            found["tests/" + os.path.basename(file)] = file
        elif cached != "None" and os.path.exists(cached):
            found[file[1:] + "c"] = cached
        elif file != "None":
            found[file[1:]] = file
    return found


def libraries(programs):
    """{place: path} of what PROGRAMS are linked with."""
    done = subprocess.run(["ldd", *programs], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, check=True, text=True, timeout=60)
    return {path[1:]: path for path in re.findall(r"=> (/\S+)", done.stdout)}


def initramfs(cache, package):
    pairs = {path[1:]: path for path in PROGRAMS}
    pairs.update(("lib/systemd/system/" + name, "/lib/systemd/system/" + name) for name in UNITS)
    pairs["bin/sh"] = "/usr/bin/dash"  # busybox's takes its own find before Debian's, which the package's scripts are for
    pairs["vtpm.deb"] = package
    pairs["libvirt.md"] = os.path.join(os.path.dirname(os.path.dirname(HERE)), "docs", "libvirt.md")
    for place, text in FILES.items():
        path = os.path.abspath("files/" + place)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w", encoding="ascii") as file:
            file.write(text)
        pairs[place] = path
    subprocess.run(["dpkg-deb", "-x", package, "unpacked"], check=True, timeout=60)
    pairs.update(libraries(glob.glob("unpacked/usr/bin/vtpm") + glob.glob("unpacked/usr/libexec/vtpm/vtpm-provider-*")))
    pairs.update(python_pairs())
    done = subprocess.run([os.path.join(QEMU, "initramfs"), cache, "initramfs-systemd", os.path.join(QEMU, "init-systemd"),
                           *("%s=%s" % pair for pair in sorted(pairs.items()))], stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=300, check=False)
    if done.returncode != 0:
        raise AssertionError("initramfs: " + done.stdout)


def boot(cache):
    """Runs it to its end. Its tests are ours; what else it says is a comment. Gives the test program's plan and results."""
    line = ["qemu-system-x86_64", "-M", "q35", "-accel", accelerator(), "-cpu", "max", "-m", "512", "-nodefaults",
            "-display", "none", "-no-reboot", "-kernel", cache + "/vmlinuz", "-initrd", cache + "/initramfs-systemd",
            "-serial", "stdio", "-append", "console=ttyS0 loglevel=0 panic=-1 systemd.unit=tests.service "
            "systemd.show_status=0 systemd.log_target=journal"]
    plan, results = 0, []
    with subprocess.Popen(["timeout", "-k", "5", str(BOOT_LIMIT), *line], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, preexec_fn=die_with_parent) as guest:
        for said in guest.stdout:
            text = said.decode("utf-8", "replace").rstrip()
            result = re.match(r"(not )?ok \d+ - ", text)
            if re.fullmatch(r"1\.\.\d+", text):
                plan = int(text[3:])
            elif result:
                results.append(not result.group(1))
            elif not text.startswith("#"):
                text = "# guest: " + text
            print(text, flush=True)
    return plan, results


def prepare():
    """Gives the folder with kernel and initramfs."""
    for path in (*PROGRAMS, "/usr/bin/qemu-system-x86_64", "/usr/bin/cpio", "/usr/bin/tpm2"):
        if not os.path.exists(path):
            raise Skip(path + " is not installed")
    package = build()
    cache = os.path.abspath(os.environ.get("VTPM_TEST_CACHE", os.path.join(os.path.dirname(VTPM), "guest-cache")))
    done = subprocess.run([os.path.join(QEMU, "fetch-kernel"), cache], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True, timeout=700, check=False)
    if done.returncode != 0:
        raise Skip(done.stdout.strip().splitlines()[-1])
    with tempfile.TemporaryDirectory(prefix="vtpm-") as folder:
        os.chdir(folder)
        initramfs(cache, package)
        os.chdir("/")
    return cache


def main():
    try:
        cache = prepare()
    except Skip as reason:
        print("1..1\nok 1 - the units under systemd # SKIP %s" % reason)
        return 0
    start = time.monotonic()
    plan, results = boot(cache)
    print("# %.1f s in the guest" % (time.monotonic() - start))
    return 0 if plan and plan == len(results) and all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
