# SPDX-License-Identifier: BSD-3-Clause
"""tpm2-tools over the swtpm TCTI of tpm2-tss, on a device of ours."""
import os
import re
import shutil
import socket
import subprocess

from device import Skip, true, wait_until

LIMIT = 60
PCR = "sha256:16"


class Tools:
    """A device that tpm2-tools can use, started up already."""
    state = "state.vtpm"

    def __init__(self, place, *args, tcp=False, create=True):
        if not shutil.which("tpm2"):
            raise Skip("tpm2-tools is not installed")
        self.place = place
        self.args = args
        self.used = False
        if create:
            place.create()
        self.env = dict(place.env)
        if tcp:
            port = pair_of_ports()
            self.tcti = "swtpm:host=127.0.0.1,port=%d" % port
            self.ctrl, self.data = "tcp:%d" % (port + 1), "tcp:%d" % port
        else:
            self.tcti = "swtpm:path=%s" % os.path.join(place.folder, "tpm")
            self.ctrl, self.data = "unix:tpm.ctrl", "unix:tpm"
        self.env["TPM2TOOLS_TCTI"] = self.tcti
        self.start()

    def start(self, kind="clear"):
        self.device = self.place.start(self.state, "--data", self.data, "--startup", kind, *self.args, ctrl=self.ctrl)
        # the sockets stand before the key is there, and until then the TPM answers TPM_RC_FAILURE
        wait_until(lambda: self.run("getrandom 4").returncode == 0, "the TPM answers")

    def restart(self, kind="clear"):
        self.device.term()
        self.start(kind)

    def run(self, line, **options):
        """Transient objects are flushed before: there is no resource manager between, and the TPM holds three."""
        options.setdefault("input", b"")
        if self.used:
            subprocess.run(["tpm2", "flushcontext", "-t", "-Q"], env=self.env, stdin=subprocess.DEVNULL,
                           capture_output=True, timeout=LIMIT, check=False)
        self.used = ".ctx" in line or "-c" in line
        return subprocess.run(["tpm2", *line.split()], env=self.env, capture_output=True, timeout=LIMIT, check=False,
                              **options)

    def __call__(self, line, **options):
        """What it prints; it must succeed."""
        done = self.run(line, **options)
        if done.returncode and not skip_missing(done):
            raise AssertionError("tpm2 %s: exit %d: %s" % (line, done.returncode, done.stderr.decode("utf-8", "replace")))
        return done.stdout

    def fails(self, line, **options):
        done = self.run(line, **options)
        true(done.returncode != 0, "tpm2 %s succeeded" % line)
        return done.stderr.decode("utf-8", "replace")

    def pcr(self):
        return re.search(r"16\s*: 0x([0-9A-F]{64})", self("pcrread " + PCR).decode()).group(1)

    def variable(self, name):
        value = re.search(r"^%s: (0x[0-9A-Fa-f]+|\d+)" % name, self("getcap properties-variable").decode(), re.M).group(1)
        return int(value, 0)


def skip_missing(done):
    if b"tcti" in done.stderr.lower() and b"load" in done.stderr.lower():
        raise Skip("the swtpm TCTI of tpm2-tss is not installed")
    return False


def pair_of_ports():
    """A port P with P + 1 free too."""
    for _ in range(50):
        with socket.socket() as first, socket.socket() as second:
            first.bind(("127.0.0.1", 0))
            port = first.getsockname()[1]
            try:
                second.bind(("127.0.0.1", port + 1))
            except OSError:
                continue
            return port
    raise Skip("no two ports in a row are free")
