# SPDX-License-Identifier: BSD-3-Clause
"""The virtual machine of the harness: as Windows 11 wants one, with nothing that needs a driver it does not bring.

A Guest (see guest.py) that boots from its own disk or medium, is looked at by screenshots and typed at by its keyboard.
"""
import os
import re
import select
import shutil
import subprocess
import time

import medium
from guest import QEMU, Guest, accelerator
from tpms import GuestError

MEMORY = {"windows": 6144, "free": 512}  # MiB; Windows 11 wants 4096
READ_ENOUGH = 16 << 20  # what stands before the prompt is a boot loader; what is read after it is hundreds of MiB, or a kernel
PROMPT_KEY = "ret"  # any key will do for Windows; OVMF goes on with this one, where others would open its menus
LEAST_ROOM = 32 << 20  # with less than that on the host's disk nothing good can come: QEMU tells an NVMe guest of errors, not us
STOPPED = {"io-error": "the machine was stopped by an error of the host's disk: is there room left?",
           "internal-error": "the machine was stopped by an internal error of QEMU", "guest-panicked": "the guest panicked"}


class Prompt(GuestError):
    """The guest does not go on: a stage's time is over."""


def make_disk(path, size, backing=None):
    """An empty disk, or one that begins as BACKING and leaves that as it is."""
    line = ["qemu-img", "create", "-q", "-f", "qcow2", *(["-b", backing, "-F", "qcow2"] if backing else []), path]
    done = subprocess.run(line + ([] if backing else [size]), stdin=subprocess.DEVNULL, capture_output=True, text=True,
                          timeout=60, check=False)
    if done.returncode != 0:
        raise GuestError(done.stderr.strip())


class Machine(Guest):
    """KIND is "windows" or "free"; IMAGES are CDs, the medium to install from first; without it the disk alone boots."""

    def __init__(self, folder, tpm, label, kind, disk, installer=None, images=(), virtio=False):
        super().__init__(folder, None, tpm, label, progress=lambda text: None, reboots=True)
        self.kind, self.disk, self.installer, self.images, self.virtio = kind, disk, installer, list(images), virtio
        self._make_variables()

    def _make_variables(self):
        """As a qcow2, unless they were copied here; see Guest."""
        if os.path.exists(self.variables):
            return
        raw = self.variables + ".raw"
        medium.make_variables(raw)
        done = subprocess.run(["qemu-img", "convert", "-q", "-f", "raw", "-O", "qcow2", raw, self.variables], stdin=subprocess.DEVNULL,
                              capture_output=True, text=True, timeout=60, check=False)
        os.unlink(raw)
        if done.returncode != 0:
            raise GuestError(done.stderr.strip())

    def _command(self, serial, qmp):
        kvm = accelerator() == "kvm"
        # Hyper-V's enlightenments as libvirt gives them to Windows; the processor is the host's, for Setup looks at it
        processor = ["-cpu", "host,hv_relaxed,hv_vapic,hv_spinlocks=0x1fff,hv_vpindex,hv_time,hv_synic,hv_stimer"] if kvm else []
        line = [QEMU, *medium.machine(self.variables, MEMORY[self.kind]), *processor, "-smp", "2" if self.kind == "windows" else "1",
                "-nodefaults", "-display", "none", "-device", "VGA", "-rtc", "base=utc", "-uuid", self.tpm.vm_uuid,
                "-chardev", f"socket,id=serial,fd={serial}", "-serial", "chardev:serial",
                "-chardev", f"socket,id=qmp,fd={qmp}", "-mon", "chardev=qmp,mode=control",
                "-chardev", f"socket,id=chrtpm,path={self.tpm_process.ctrl}",
                "-tpmdev", "emulator,id=tpm0,chardev=chrtpm", "-device", f"{self.model},tpmdev=tpm0"]
        line[line.index(f"if=pflash,unit=1,format=raw,file={self.variables}")] = f"if=pflash,unit=1,format=qcow2,file={self.variables}"
        return line + self._drives() + self._network()

    def _drives(self):
        line = ["-drive", f"if=none,id=disk,format=qcow2,discard=unmap,file={self.disk}",
                "-device", ("virtio-blk-pci" if self.virtio else "nvme,serial=disk") + ",drive=disk,bootindex=1"]
        if self.installer:
            # the free medium's kernel has no driver for a CD
            device = "nvme,serial=medium" if self.kind == "free" else "ide-cd,bus=ide.0"
            line += ["-drive", f"if=none,id=medium,format=raw,readonly=on,file={self.installer}",
                     "-device", device + ",drive=medium,bootindex=2"]
        # the firmware makes only those devices ready that may be booted
        for number, image in enumerate(self.images, 1):
            line += ["-drive", f"if=none,id=cd{number},format=raw,readonly=on,media=cdrom,file={image}",
                     "-device", f"ide-cd,bus=ide.{number},drive=cd{number},bootindex={number + 2}"]
        return line

    def _network(self):
        """One that leads nowhere: Setup finds a network, and nothing is downloaded."""
        return ["-netdev", "user,id=net,restrict=on", "-device", "e1000e,netdev=net,romfile="] if self.kind == "windows" else ["-nic", "none"]

    def wait(self, pattern, what, limit, idle=None):
        """Like expect(); IDLE is called each second, and a machine that has stopped is told at once."""
        end = time.monotonic() + limit
        while True:
            match = re.search(pattern, self.buffer)
            if match:
                self.buffer = self.buffer[match.end():]
                return match
            if time.monotonic() > end:
                raise Prompt(f"{what}: nothing of the kind within {limit:.0f} s")
            if select.select([self.serial], [], [], 1)[0]:
                if not self._receive():
                    raise GuestError(f"{what}: {self.ended()}")
                continue
            room = shutil.disk_usage(self.folder).free
            if room < LEAST_ROOM:
                raise GuestError(f"{what}: no space left: {self.folder} has room for {room >> 20} MiB more")
            status = self.qmp.command("query-status")["status"]
            if status in STOPPED:
                raise GuestError(f"{what}: {STOPPED[status]}")
            if idle:
                idle()

    def ended(self):
        return f"QEMU ended first, status {self.process.wait(30)}"

    def ready(self, limit, idle=None):
        """Waits for the guest's agent; gives "ready", or "recovery" where the guest says that it wants the recovery key."""
        return self.wait(rb"guest: (ready|recovery)\r?\n", "the guest to answer", limit, idle).group(1).decode()

    def ask(self, verb, limit=300):
        """Has the guest do VERB: (status, facts, lines)."""
        self.requests += 1
        self.serial.sendall(b"%d %s\n" % (self.requests, verb.encode()))
        match = self.wait(rb"(?s)^(.*?)guest: end %d (\d+)\r?\n" % self.requests, f"the guest to end '{verb}'", limit)
        lines = re.findall(r"^guest\| ?(.*?)\r?$", match.group(1).decode("utf-8", "replace"), re.MULTILINE)
        facts = dict((line[2:].split(" ", 1) + [""])[:2] for line in lines if line.startswith("= "))
        return int(match.group(2)), facts, [line for line in lines if not line.startswith("= ")]

    def answer_prompt(self):
        """The key that boots from the medium, again and again until it is read from; see wait()."""
        blocks = self.qmp.command("query-blockstats")
        read = next(block["stats"]["rd_bytes"] for block in blocks if block.get("device") == "medium")
        if read < READ_ENOUGH:
            self.press(PROMPT_KEY)

    def eject(self):
        """Takes out the CDs that Windows was installed from."""
        for name in ("medium", *(f"cd{number}" for number in range(1, len(self.images) + 1))):
            self.qmp.command("eject", device=name, force=True)

    def press(self, *keys):
        self.qmp.command("send-key", keys=[{"type": "qcode", "data": key} for key in keys])

    def type(self, text):
        for letter in text:
            self.press("ret" if letter == "\n" else letter)
            time.sleep(0.15)  # send-key lets go after 0.1 s

    def screenshot(self, path):
        """What the guest shows. Gives the path, whose suffix is that of a format which this QEMU can write; or None."""
        for suffix, options in ((".png", {"format": "png"}), (".ppm", {})):
            try:
                self.qmp.command("screendump", limit=30, filename=path + suffix, **options)
                return path + suffix
            except (GuestError, OSError):
                continue
        return None

    def switch_off(self, limit):
        self.ask("poweroff")
        end = time.monotonic() + limit
        while self.process.poll() is None:
            if time.monotonic() > end:
                raise Prompt(f"the guest to switch off: it has not within {limit:.0f} s")
            if select.select([self.serial], [], [], 0.2)[0] and not self._receive():
                self.process.wait(60)
        if self.process.returncode != 0:
            raise GuestError(f"QEMU ended with status {self.process.returncode}")
        self.tpm_process.wait()
