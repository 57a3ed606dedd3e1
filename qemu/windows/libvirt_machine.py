# SPDX-License-Identifier: BSD-3-Clause
"""The same machine as a domain of libvirt's, which starts its TPM itself: with the swtpm that it finds, which must be ours."""
import glob
import json
import os
import re
import shutil
import socket
import subprocess
import time
import uuid
from xml.sax.saxutils import escape

from guest import accelerator
from machine import MEMORY, PROMPT_KEY, READ_ENOUGH, Machine, Prompt
from tpms import GuestError

HERE = os.path.dirname(os.path.realpath(__file__))
LIMIT = 120
STATE = b"vtpm-hdr"  # what a state file begins with (docs/state-format.md)
HYPERV = ("<hyperv><relaxed state='on'/><vapic state='on'/><spinlocks state='on' retries='8191'/><vpindex state='on'/>"
          "<synic state='on'/><stimer state='on'/></hyperv>")
# otherwise libvirt makes each a processor of its own, and Windows 11 wants one with two cores
CPU = "<cpu mode='host-passthrough'><topology sockets='1' cores='{}' threads='1'/></cpu>"
CD = "<disk type='file' device='cdrom'><driver name='qemu' type='raw'/><source file='{}'/><target dev='sd{}' bus='sata'/>" \
     "<readonly/><boot order='{}'/></disk>"


class Virsh:
    """One libvirtd, and QEMU's monitor of one domain of it (see Qmp in guest.py)."""

    def __init__(self, uri, name):
        self.uri, self.name = uri, name

    def run(self, *arguments, check=True):
        done = subprocess.run(["virsh", "-q", "-c", self.uri, *arguments], stdin=subprocess.DEVNULL, capture_output=True, text=True,
                              timeout=LIMIT, check=False)
        if check and done.returncode != 0:
            raise GuestError(f"virsh {' '.join(arguments[:2])}: {done.stderr.strip()}")
        return done.stdout

    def command(self, name, **arguments):
        answer = json.loads(self.run("qemu-monitor-command", self.name, json.dumps({"execute": name, "arguments": arguments})))
        if "error" in answer:
            raise GuestError(f"QEMU refuses {name}: {answer['error'].get('desc')}")
        return answer["return"]


class LibvirtMachine(Machine):
    """Its files are in FOLDER, which QEMU's user must reach; its TPM is libvirt's."""

    def __init__(self, folder, uri, kind, installer, images, virtio, keep):
        self.domain = f"vtpm-windows11-{os.getpid()}"
        self.uuid, self.keep = str(uuid.uuid4()), keep
        os.chmod(folder, 0o711)
        super().__init__(folder, None, "vm", kind, os.path.join(folder, "disk.qcow2"), installer, images, virtio)
        self.qmp = Virsh(uri, self.domain)

    def _make_variables(self):
        """libvirt makes its own."""

    def _words(self):
        kvm, free = accelerator() == "kvm", self.kind == "free"
        virtio = self.virtio or free  # libvirt has no NVMe disk; the free medium's kernel has none of SATA
        images = [CD.format(escape(path), "bcdef"[number], number + 3) for number, path in enumerate(self.images, 1)]
        return {"TYPE": "kvm" if kvm else "qemu", "NAME": self.domain, "UUID": self.uuid, "MEMORY": str(MEMORY[self.kind]),
                "PROCESSORS": "1" if free else "2", "FOLDER": escape(self.folder), "HYPERV": HYPERV if kvm else "",
                "CPU": CPU.format(1 if free else 2) if kvm else "", "INSTALLER": escape(self.installer),
                "DISK": "<target dev='vda' bus='virtio'/>" if virtio else "<target dev='sda' bus='sata'/>",
                "INSTALLER_DEVICE": "disk" if free else "cdrom",
                "INSTALLER_TARGET": f"<target dev='{'vdb' if free else 'sdb'}' bus='{'virtio' if free else 'sata'}'/>",
                "IMAGES": "\n    ".join(images)}

    def _start(self):
        with open(os.path.join(HERE, "..", "windows11.xml"), encoding="utf-8") as file:
            text = file.read()
        for word, value in self._words().items():
            text = text.replace(f"@{word}@", value)
        path = os.path.join(self.folder, "domain.xml")
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)
        self.qmp.run("define", path)
        self.qmp.run("start", self.domain)
        self._connect()
        self._is_ours()

    def _connect(self):
        end = time.monotonic() + LIMIT
        while True:
            self.serial = socket.socket(socket.AF_UNIX)
            try:
                self.serial.connect(os.path.join(self.folder, "serial"))
                return
            except OSError as error:
                self.serial.close()
                if time.monotonic() > end:
                    raise GuestError(f"the domain's serial line: {error}") from None
                time.sleep(0.1)

    def _is_ours(self):
        """Stock swtpm would be tested in our name: its state is no file of ours."""
        for path in glob.glob("/proc/[0-9]*/cmdline"):
            try:
                with open(path, "rb") as file:
                    line = file.read().decode(errors="replace")
            except OSError:
                continue
            found = re.search(rf"dir=([^,\0]*{self.uuid}[^,\0]*)", line)
            if found and "swtpm" in line:
                state = os.path.join(os.path.dirname(path), "root", found.group(1).lstrip("/"), "tpm2-00.permall")
                with open(state, "rb") as file:
                    if file.read(len(STATE)) == STATE:
                        return
                raise GuestError("libvirt has started another swtpm than ours; docs/libvirt.md says how it finds ours")
        raise GuestError("libvirt has started no TPM that could be found")

    def __exit__(self, kind, error, trace):
        if self.serial:
            self.serial.close()
            self.serial = None
        self.qmp.run("destroy", self.domain, check=False)
        if not self.keep:
            self.qmp.run("undefine", self.domain, "--nvram", check=False)

    def answer_prompt(self):
        target = "vdb" if self.kind == "free" else "sdb"
        read = re.search(r"rd_bytes (\d+)", self.qmp.run("domblkstat", self.domain, target))
        if read and int(read.group(1)) < READ_ENOUGH:
            self.press(PROMPT_KEY)

    def eject(self):
        for letter in "bcdef"[:len(self.images) + 1]:
            self.qmp.run("change-media", self.domain, f"sd{letter}", "--eject", "--live", "--force")

    def screenshot(self, path):
        try:
            self.qmp.run("screenshot", self.domain, path)
        except GuestError:
            return None
        with open(path, "rb") as file:
            suffix = ".png" if file.read(4) == b"\x89PNG" else ".ppm"
        shutil.move(path, path + suffix)
        return path + suffix

    def ended(self):
        return "the domain is " + self.qmp.run("domstate", self.domain, check=False).strip()

    def switch_off(self, limit):
        self.ask("poweroff")
        end = time.monotonic() + limit
        while self.qmp.run("domstate", self.domain).strip() != "shut off":
            if time.monotonic() > end:
                raise Prompt(f"the guest to switch off: it has not within {limit:.0f} s")
            time.sleep(0.5)
