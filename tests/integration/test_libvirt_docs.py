#!/usr/bin/python3
# SPDX-License-Identifier: BSD-3-Clause
"""docs/libvirt.md, command by command: the package is installed in a copy of this host that is thrown away (overlay.py),
where a libvirtd runs; a guest that Debian's swtpm had seals a secret and opens it after each switch. The section on
swtpm's state is run by test_swtpm_state.py.

The page's blocks `sh` are run in its order. The last line of a block `sh fails WORDS` fails and says WORDS. A comment
`test: ...` is for the test alone: a line for the shell, or one of
  guest swtpm|vtpm     boots the domain web; the first time it seals, later it unseals; whose its state then is
  domain NAME UUID X   defines a domain with X in its <backend>
  external web         gives it the external backend; emulator web: its own again
"""
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile

sys.dont_write_bytecode = True
HERE = os.path.dirname(os.path.realpath(__file__))
sys.path.insert(0, HERE)
import device  # noqa: E402
from device import contains, main, read_file, same, true, wait_until, write_file  # noqa: E402
from libvirt_host import cache, lv, start_theirs  # noqa: E402
from package import build, copy_of_host  # noqa: E402
from swtpm import debian  # noqa: E402

PAGE = os.path.join(HERE, "..", "..", "docs", "libvirt.md")
WEB = "7d444840-9dc0-41d1-b245-5ffdce74fad2"
SECRET = os.urandom(24).hex()
DIGEST = hashlib.sha256(bytes.fromhex(SECRET)).hexdigest()
STATES = "/var/lib/libvirt/swtpm"

device.TEST_LIMIT = 600  # a package is built, a host installed, guests boot


class Packaged:
    """libvirtd in the copy of the host, as Debian starts it. Its domains' files are in a folder that both sides see."""

    def __init__(self, host):
        self.host = host
        self.folder = tempfile.mkdtemp(prefix="vtpm-lv.", dir="/dev/shm")
        self.shell("rm -rf /etc/libvirt/qemu/*.xml /var/lib/libvirt/swtpm /var/lib/vtpm /var/lib/swtpm-localca; "
                   "mkdir -p /run/libvirt; install -d -o tss -g root -m 750 /var/lib/swtpm-localca")
        for name, text in (("qemu.conf", lv.QEMU_CONF), ("libvirtd.conf", 'auth_unix_rw = "none"\n')):
            write_file(host.path("/etc/libvirt/" + name), text, "w")
        self.daemon = host.start("libvirtd", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_until(lambda: self.virsh("version", check=False).returncode == 0, "libvirtd answers", limit=60)

    def shell(self, code):
        return self.host.run("sh", "-eu", "-c", "cd /root; " + code)

    def virsh(self, *args, check=True):
        done = self.host.run("virsh", "-q", "-c", "qemu:///system", *args, stderr=subprocess.PIPE)
        if check and done.returncode != 0:
            raise lv.GuestError(f"virsh {' '.join(args)}: {done.stderr.strip()}")
        return done

    def logs(self, name):
        return self.shell(f"tail -n 30 /var/log/swtpm/libvirt/qemu/{name}-swtpm.log; tail -n 10 /var/log/libvirt/qemu/{name}.log").stdout

    def end(self):
        self.daemon.kill()
        self.daemon.wait()
        shutil.rmtree(self.folder, ignore_errors=True)


class Page:
    def __init__(self, at, kept):
        self.at, self.cache = at, kept
        self.web = lv.Domain(at, "web", kept, number=WEB)
        self.sealed = False

    def guest(self, whose):
        start_theirs(self.web)
        if not self.sealed:
            self.web.ask("seal", SECRET)
            self.sealed = True
        same(self.web.ask("unseal")[0].split()[0], DIGEST)
        self.web.power_off()
        state = read_file(self.at.host.path(f"{STATES}/{WEB}/tpm2/tpm2-00.permall"))
        same(state[:8] == b"vtpm-hdr", whose == "vtpm", "the state is vtpm's")

    def domain(self, name, number, *tpm):
        lv.Domain(self.at, name, self.cache, " ".join(tpm), number=number)

    def external(self, _):
        self.web.template = "libvirt-external.xml"
        self.web.define(tpm_socket="/run/vtpm-vms/web.sock")

    def emulator(self, _):
        self.web.template = "libvirt-emulator.xml"
        self.web.define()
        self.at.virsh("start", "web", "--paused")
        self.at.virsh("destroy", "web")

    def for_test(self, text):
        verb, *words = text.split()
        if verb in ("guest", "domain", "external", "emulator"):
            getattr(self, verb)(*words)
        else:
            self.run(text)

    def run(self, code, fails=None):
        lines = code.rstrip("\n").splitlines()
        done = self.at.shell("\n".join(lines[:-1]) if fails else code)
        same(done.returncode, 0, code + done.stdout)
        if fails:
            done = self.at.shell(lines[-1])
            true(done.returncode != 0, lines[-1] + " fails")
            contains(done.stdout, fails)


def steps():
    """(label, code) and ("test", text), in the order of the page; and the whole page."""
    page = read_file(PAGE).decode()
    here = re.sub(r"^## State that swtpm wrote\n.*?(?=^## |\Z)", "", page, flags=re.M | re.S)
    for label, code, hidden in re.findall(r"^```([^\n]*)\n(.*?)^```$|^<!-- test: ([^\n]*) -->$", here, re.M | re.S):
        yield ("test", hidden) if hidden else (label, code)


def test_build(place):
    """the package is made"""
    del place
    cache()
    build()


def test_page(place):
    """docs/libvirt.md: the package, a switch over and back, and each command of the page, on a real libvirtd"""
    del place
    debian()
    kept, package = cache(), build()
    with copy_of_host() as host:
        shutil.copy(package, host.path("/root"))
        at = Packaged(host)
        try:
            page, count = Page(at, kept), 0
            for label, code in steps():
                if label == "test":
                    page.for_test(code)
                elif label == "sh" or label.startswith("sh fails "):
                    page.run(code, label[len("sh fails "):] or None)
                    count += 1
                else:  # a file, or what takes systemd: the unit then means the files of the page
                    true(label in ("xml", "ini", "sh systemd"), "a block of commands is run: " + code)
            units = "".join(at.shell("cat /usr/lib/systemd/system/vtpm@.*").stdout)
            contains(units, "/run/vtpm-vms/%i.sock", "/var/lib/vtpm-vms/%i.vtpm", "/etc/vtpm/%i.env")
        except Exception:
            print("# --- the logs of TPM and QEMU\n# " + at.logs("web").replace("\n", "\n# "))
            raise
        finally:
            at.end()
    return "%d blocks" % count


if __name__ == "__main__":
    main(globals())
