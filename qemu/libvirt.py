# SPDX-License-Identifier: BSD-3-Clause
"""A libvirtd of our own, without systemd and beside whatever the host runs, and domains in it with the test guest.

libvirtd runs in private mount, UTS and process namespaces, its folders bound over the host's places. All that it starts
ends with it, and it ends with the program that has made it."""
import os
import pwd
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import uuid

HERE = os.path.dirname(os.path.realpath(__file__))
sys.path.insert(0, HERE)
from guest import Guest, GuestError  # noqa: E402
from tpms import die_with_parent  # noqa: E402

PLACES = ("/etc/libvirt", "/var/lib/libvirt", "/run/libvirt", "/var/cache/libvirt", "/var/log/libvirt", "/var/log/swtpm")
MADE_BY_LIBVIRTD = ("/run/libvirt", "/var/log/swtpm")  # when it runs, and when it first runs a swtpm
OWN_OF_USER = "/var/lib/swtpm-localca"  # Debian's swtpm keeps its certificate authority there
PROGRAMS = ("libvirtd", "virsh", "qemu-img", "unshare", "mount")
SYSTEM_PATH = "/usr/sbin:/usr/bin:/sbin:/bin"
LIMIT = 120
CAPABILITIES = "qemu/capabilities"  # below /var/cache/libvirt: what QEMU can do, which takes libvirtd 8 s to find out
MEMORY, MEMORY_OF_UEFI = 160, 256  # MiB, as little as does, for it is saved and restored; with UEFI a kernel needs more to load
UNSHARE = ("unshare", "--mount", "--uts", "--pid", "--fork", "--kill-child", "--propagation", "private")
# The first process of the namespace: its wait takes who is orphaned, as an init does. $1: host name.
INSIDE = 'mount -t proc proc /proc && hostname "$1" && libvirtd --pid-file /run/libvirt/libvirtd.pid & wait'
# no systemd, cgroups or security labels, and nobody but root has QEMU's files
QEMU_CONF = ('user = "root"\ngroup = "root"\ncgroup_controllers = []\nsecurity_driver = "none"\nnamespaces = []\n'
             'stdio_handler = "file"\nremember_owner = 0\nseccomp_sandbox = 0\n')


def missing():
    """What libvirt needs and this machine lacks, or None."""
    if os.geteuid() != 0:
        return "libvirtd needs root"
    for program in PROGRAMS:
        if not shutil.which(program, path=SYSTEM_PATH):
            return f"{program} is not installed"
    for place in MADE_BY_LIBVIRTD:
        os.makedirs(place, exist_ok=True)
    for place in PLACES:
        if not os.path.isdir(place):
            return f"{place} is not there"
    probe = subprocess.run([*UNSHARE, "true"], capture_output=True, check=False)
    return None if probe.returncode == 0 else "there are no private namespaces: " + probe.stderr.decode().strip()


def reachable_by_others(path):
    """Whether a user other than root gets to PATH."""
    while path != "/":
        if not os.stat(path).st_mode & 0o001:
            return False
        path = os.path.dirname(path)
    return True


class Libvirt:
    """PROGRAMS: the folder where swtpm, swtpm_setup and swtpm_ioctl are found first; None: the host's own.
    OTHER: a host whose key providers this one has, too. STATES: a folder in the place of /var/lib/libvirt/swtpm.
    PRELOAD: a library that libvirtd is started with."""

    def __init__(self, programs, libexec, name="vtpm-test", other=None, states=None, preload=None):
        self.folder = tempfile.mkdtemp(prefix="vtpm-lv.")
        os.chmod(self.folder, 0o755)
        self.name, self.preload = name, preload
        self.data_dir = other.data_dir if other else os.path.join(self.folder, "vtpm")
        self.programs, self.libexec = programs, libexec
        self.link = os.path.join(self.folder, "bin")
        self.process = None
        self.binds = [*PLACES, *([OWN_OF_USER] if os.path.isdir(OWN_OF_USER) else [])]
        for place in self.binds:
            os.makedirs(self.place(place))
        self.states = states or os.path.join(self.place("/var/lib/libvirt"), "swtpm")
        os.makedirs(self.data_dir, exist_ok=True)
        self.user = "tss" if reachable_by_others(os.path.realpath(programs)) else "root"
        for path in (self.data_dir, *([self.place(OWN_OF_USER)] if OWN_OF_USER in self.binds else [])):
            shutil.chown(path, self.user)
        self._configure()
        self.use(programs)

    def place(self, path):
        return os.path.join(self.folder, path.strip("/").replace("/", "-"))

    def _configure(self):
        etc = self.place("/etc/libvirt")
        with open(os.path.join(etc, "qemu.conf"), "w", encoding="utf-8") as file:
            file.write(QEMU_CONF + f'swtpm_user = "{self.user}"\nswtpm_group = "{self.user}"\n')
        with open(os.path.join(etc, "libvirtd.conf"), "w", encoding="utf-8") as file:
            file.write(f'auth_unix_rw = "none"\nhost_uuid = "{uuid.uuid4()}"\nlog_outputs = "2:stderr"\n')
        with open(os.path.join(self.folder, "vtpm.conf"), "w", encoding="utf-8") as file:
            file.write("[vtpm]\ninit-wait=5\n")

    def use(self, programs):
        """Whose swtpm is found from now on; libvirtd looks again when a program changes."""
        new = self.link + ".new"
        os.symlink(programs or "/nonexistent", new)
        os.rename(new, self.link)

    def environment(self):
        """What the programs need that libvirtd starts, and vtpm for the same vTPMs."""
        return {"PATH": f"{self.link}:{SYSTEM_PATH}", "HOME": self.folder, "LC_ALL": "C", "VTPM_DATA_DIR": self.data_dir,
                "VTPM_CONFIG": os.path.join(self.folder, "vtpm.conf"), "VTPM_LIBEXEC_DIR": self.libexec}

    def start(self, cache=None):
        """CACHE: a folder that keeps what libvirtd finds out about QEMU. It looks itself whether that still holds."""
        known = os.path.join(self.place("/var/cache/libvirt"), CAPABILITIES)
        kept = cache and os.path.join(cache, "libvirt-capabilities")
        if kept and os.path.isdir(kept):
            shutil.copytree(kept, known, dirs_exist_ok=True)
        places = [(self.place(path), path) for path in self.binds]
        if not self.states.startswith(self.place("/var/lib/libvirt")):
            os.makedirs(os.path.join(self.place("/var/lib/libvirt"), "swtpm"), mode=0o711)
            places.append((self.states, "/var/lib/libvirt/swtpm"))
        binds = " && ".join(f"mount --bind {source} {target}" for source, target in places)
        with open(os.path.join(self.folder, "libvirtd.log"), "ab") as log:
            self.process = subprocess.Popen(
                [*UNSHARE, "env", *([f"LD_PRELOAD={self.preload}"] if self.preload else []), "sh", "-c",
                 f"{binds} && {INSIDE}", "sh", self.name],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self.environment(), preexec_fn=die_with_parent)
        self._wait()
        self.virsh("domcapabilities", check=False)
        if kept and not os.path.isdir(kept) and os.path.isdir(known):
            new = tempfile.mkdtemp(dir=cache)
            shutil.copytree(known, new, dirs_exist_ok=True)
            try:
                os.rename(new, kept)
            except OSError:  # another was first
                shutil.rmtree(new)

    def _wait(self):
        end = time.monotonic() + LIMIT
        while self.virsh("version", check=False).returncode != 0:
            if self.process.poll() is not None or time.monotonic() > end:
                raise GuestError("libvirtd does not start: " + self.log())
            time.sleep(0.1)

    def log(self):
        with open(os.path.join(self.folder, "libvirtd.log"), encoding="utf-8", errors="replace") as file:
            return file.read()[-2000:]

    @property
    def uri(self):
        return "qemu+unix:///system?socket=" + os.path.join(self.place("/run/libvirt"), "libvirt-sock")

    def virsh(self, *args, check=True, text=None):
        done = subprocess.run(["virsh", "-q", "-c", self.uri, *args], capture_output=True, text=True, timeout=LIMIT,
                              check=False, env={"PATH": SYSTEM_PATH, "LC_ALL": "C", "HOME": self.folder}, input=text)
        if check and done.returncode != 0:
            raise GuestError(f"virsh {' '.join(args)}: {done.stderr.strip()}")
        return done

    def tpm_folder(self, domain):
        return os.path.join(self.states, domain.uuid, "tpm2")

    def tpm_log(self, domain):
        path = os.path.join(self.place("/var/log/swtpm"), "libvirt", "qemu", f"{domain.name}-swtpm.log")
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()

    def secret(self, value, name, number=None):
        """A libvirt secret for a vTPM; gives its UUID."""
        number = number or str(uuid.uuid4())
        path = os.path.join(self.folder, "secret.xml")
        with open(path, "w", encoding="utf-8") as file:
            file.write(f"<secret ephemeral='no' private='no'><uuid>{number}</uuid>"
                       f"<usage type='vtpm'><name>{name}</name></usage></secret>")
        self.virsh("secret-define", path)
        self.set_secret(number, value)
        return number

    def set_secret(self, number, value):
        path = os.path.join(self.folder, "secret.value")
        with open(path, "wb") as file:
            file.write(value)
        self.virsh("secret-set-value", number, "--file", path, "--plain")
        os.unlink(path)

    def end(self):
        if self.process:
            self.process.kill()
            self.process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)


class Session(Libvirt):
    """An ordinary user's: qemu:///session. Nothing of vtpm is told its place but where helpers are."""

    def __init__(self, programs, libexec, user="nobody"):
        super().__init__(programs, libexec, name="vtpm-session")
        self.user = user
        self.run_dir = os.path.join(self.folder, "run")
        self.states = os.path.join(self.folder, ".config", "libvirt", "qemu", "swtpm")
        for path in (self.run_dir, os.path.dirname(os.path.dirname(self.states))):
            os.makedirs(path, mode=0o700)
        with open(os.path.join(self.folder, ".config", "libvirt", "qemu.conf"), "w", encoding="utf-8") as file:
            file.write('stdio_handler = "file"\nsecurity_driver = "none"\nseccomp_sandbox = 0\n')
        subprocess.run(["chown", "-R", user, self.folder], check=True, timeout=60)

    def environment(self):
        return {"PATH": f"{self.link}:{SYSTEM_PATH}", "HOME": self.folder, "LC_ALL": "C",
                "XDG_RUNTIME_DIR": self.run_dir, "VTPM_LIBEXEC_DIR": self.libexec}

    @property
    def uri(self):
        return "qemu+unix:///session?socket=" + os.path.join(self.run_dir, "libvirt", "libvirt-sock")

    def start(self, cache=None):
        with open(os.path.join(self.folder, "libvirtd.log"), "ab") as log:
            self.process = subprocess.Popen(
                [*UNSHARE, "sh", "-c", f"mount -t proc proc /proc && setpriv --reuid={self.user} --regid={pwd.getpwnam(self.user).pw_gid} "
                 "--clear-groups libvirtd & wait"], stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                env=self.environment(), preexec_fn=die_with_parent)
        self._wait()

    def tpm_log(self, domain):
        path = os.path.join(self.folder, ".cache", "libvirt", "qemu", "log", f"{domain.name}-swtpm.log")
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()


class Domain(Guest):
    """A domain, and the guest in it over its serial line."""

    def __init__(self, libvirt, name, cache, tpm="", template="libvirt-emulator.xml", number=None):
        super().__init__(libvirt.folder, cache, None, name, progress=lambda text: None)
        self.libvirt, self.name, self.uuid = libvirt, name, number or str(uuid.uuid4())
        self.template = template
        self.line = os.path.join(self.folder, name + ".serial")
        disk = os.path.join(self.folder, name + ".qcow2")
        if not os.path.exists(disk):
            subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", disk, "64M"], check=True, timeout=60)
        self.define(tpm)

    def define(self, tpm="", firmware=None, tpm_socket=None, kernel=True):
        """FIRMWARE: efi; else the plain one, which is quicker and measures less. TPM_SOCKET: of an external TPM."""
        with open(os.path.join(HERE, self.template), encoding="utf-8") as file:
            text = file.read()
        if firmware:
            text = text.replace("<os>", f"<os firmware='{firmware}'>")
        if not kernel:
            text = re.sub(r"\s*<(kernel|initrd|cmdline)>.*", "", text)
        if tpm_socket:
            text = text.replace("@FOLDER@/@NAME@.tpm", tpm_socket)
        for word, value in (("NAME", self.name), ("UUID", self.uuid), ("CACHE", self.cache), ("FOLDER", self.folder),
                            ("TPM", tpm), ("MEMORY", str(MEMORY_OF_UEFI if firmware else MEMORY))):
            text = text.replace(f"@{word}@", value)
        path = os.path.join(self.folder, self.name + ".xml")
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)
        self.libvirt.virsh("define", path)

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        self.hang_up()
        self.libvirt.virsh("destroy", self.name, check=False)

    def hang_up(self):
        if self.serial:
            self.serial.close()
            self.serial = None

    def connect(self):
        self.hang_up()
        self.buffer = b""
        end = time.monotonic() + 20
        while True:
            self.serial = socket.socket(socket.AF_UNIX)
            try:
                self.serial.connect(self.line)
                return
            except OSError:
                self.serial.close()
                if time.monotonic() > end:
                    raise
                time.sleep(0.02)

    def start(self, *args):
        """Starts the domain and waits for the guest."""
        self.libvirt.virsh("start", self.name, *args)
        self.connect()
        self.wait_ready()

    def wait_ready(self):
        self.expect(rb"guest: up\r?\n", "the kernel to start our init")
        self.expect(rb"guest: ready\r?\n", "the guest's TPM device")

    def state(self):
        return self.libvirt.virsh("domstate", self.name).stdout.strip()

    def power_off(self):
        self.requests += 1
        self.serial.sendall(b"%d poweroff\n" % self.requests)
        end = time.monotonic() + LIMIT
        while self.state() != "shut off":
            if time.monotonic() > end:
                raise GuestError(f"the domain is {self.state()}, not shut off")
            time.sleep(0.05)
        self.hang_up()

    def banks(self):
        """The PCR banks that have a PCR."""
        found, bank = [], None
        for line in self.ask("pcrs"):
            match = re.match(r"\s+(sha\d+):", line)
            if match:
                bank = match.group(1)
            elif bank and bank not in found:
                found.append(bank)
        return found
