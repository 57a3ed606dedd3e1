# SPDX-License-Identifier: BSD-3-Clause
"""The boot chain of a Windows 11 guest, with Debian's signed loaders on its medium: firmware with Microsoft's keys, Secure
Boot enforced, SMM, tpm-crb, no -kernel. What a volume's key is sealed to then holds, and each change of it is seen.

As named steps, like scenario.py; tests/integration/test_secure_boot.py runs them.
"""
import hashlib
import os
import re
import secrets
import shutil
import struct
import subprocess
import sys

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.realpath(__file__)))
import medium  # noqa: E402
from efi_variables import CERT_X509, IMAGE_SECURITY_DATABASE, VariableStore, signatures  # noqa: E402
from event_log import SEPARATOR, VARIABLE_AUTHORITY, VARIABLE_CONFIG, EventLog, variable  # noqa: E402
from guest import HERE, Guest, GuestError  # noqa: E402
from scenario import MEASURED, Boots, pcrs, require  # noqa: E402

MICROSOFT = b"Microsoft Corporation UEFI CA 2011"  # signs shim; Windows' boot manager is under another one of Microsoft's
GLOBAL = "8be4df61-93ca-11d2-aa0d-00e098032b8c"  # EFI_GLOBAL_VARIABLE
SIGNING_TABLE = 4  # IMAGE_DIRECTORY_ENTRY_SECURITY
PIN = "123456"
POLICY_FAIL, AUTH_FAIL = "(0x99D)", "(0x98E)"  # of the first session


def make_initramfs(cache):
    """The guest's own, with qemu/init-windows; returns its path."""
    name = "initramfs-windows"
    module = os.path.join(cache, "modules", "efivarfs.ko")
    done = subprocess.run([os.path.join(HERE, "initramfs"), cache, name, os.path.join(HERE, "init-windows"),
                           "modules/efivarfs.ko=" + module], stdin=subprocess.DEVNULL, capture_output=True, timeout=300,
                          check=False)
    if done.returncode != 0:
        raise GuestError(done.stderr.decode("utf-8", "replace").strip())
    return os.path.join(cache, name)


def without_signature(image):
    """A PE image as it was before it was signed: nothing in its directory of certificates (PE format, "Optional Header Data
    Directories")."""
    image = bytearray(image)
    optional = struct.unpack_from("<I", image, 0x3C)[0] + 24
    entry = optional + 112 + 8 * SIGNING_TABLE
    start, size = struct.unpack_from("<II", image, entry)
    require(size, "the image has no signature")
    image[entry:entry + 8] = bytes(8)
    return bytes(image[:start])


def altered(image):
    """One byte of its code is another; the signature stays."""
    image = bytearray(image)
    image[len(image) // 2] ^= 1
    return bytes(image)


class SecureGuest(Guest):
    """Boots from DISKS, in their order, with the firmware of Windows 11 guests."""

    def __init__(self, *args, disks=(), **options):
        super().__init__(*args, **options)
        self.disks = disks
        self.variables = os.path.join(self.folder, "variables.fd")

    def _make_variables(self):
        medium.make_variables(self.variables)

    def _machine(self):
        line = medium.machine(self.variables, sleep=True)
        for number, path in enumerate(self.disks):
            line += ["-drive", f"if=none,id=disk{number},format=raw,readonly=on,file={path}",
                     "-device", f"virtio-blk-pci,drive=disk{number},bootindex={number}"]
        return line

    def stages(self):
        return [("firmware", rb"Welcome to GRUB!", "shim and GRUB to start"), *super().stages()[1:]]

    def sleep_and_wake(self):
        """ACPI S3: the kernel sends TPM2_Shutdown(STATE), QEMU resets the TPM, the firmware sends TPM2_Startup(STATE)."""
        self.requests += 1
        self.serial.sendall(b"%d sleep\n" % self.requests)
        self.qmp.wait_for_status("query-status", "suspended")
        self.qmp.command("system_wakeup")
        self.expect(rb"guest: end %d 0\r?\n" % self.requests, "the guest to wake up")


class SecureBoot(Boots):
    """Four boots of one VM: as it was sealed, again, with Secure Boot switched off, with another db; then its TPM is cleared."""

    def __init__(self, folder, cache, tpm, progress):
        super().__init__(folder, cache, tpm, "tpm-crb", progress)
        self.pin_secret = secrets.token_bytes(32)
        self.disk = os.path.join(folder, "disk.img")
        self.variables = os.path.join(folder, "variables.fd")
        self.log = self.live = self.sealed = self.sealed_with_pin = None
        self.booted = {}  # the log of each boot, by its label

    def steps(self):
        return [("signed chain: shim, GRUB and kernel boot without -kernel", self.boot_signed),
                ("signed chain: Secure Boot is on in the guest, its kernel locked down", self.secure),
                ("signed chain: the crypto-agile event log replays to the live PCRs", self.replay),
                ("signed chain: PCR 7 holds the policy in the order that Windows wants", self.policy_events),
                ("signed chain: PCR 7 holds Microsoft's certificate, which verified shim", self.authority),
                ("signed chain: ACPI table TPM2", self.acpi_table),
                ("signed chain: physical presence interface", self.presence),
                ("signed chain: family 2.0, SHA-256 bank", self.properties),
                ("signed chain: certificate of the RSA endorsement key", self.certificate),
                ("signed chain: storage root key from the TCG template at 0x81000001", self.storage_root_key),
                ("signed chain: ownership and dictionary attack parameters as Windows sets them", self.own),
                ("signed chain: volume keys sealed to PCR 7 and 11, with and without PIN", self.seal),
                ("signed chain: power off", self.power_off),
                ("next boot: PCR 0, 2, 4, 7 and 11 are the same", self.boot_again),
                ("next boot: the volume key opens", self.opens),
                ("next boot: with PIN it opens, with another PIN not", self.opens_with_pin),
                ("next boot: ACPI S3 and back, the PCRs are kept and the key opens", self.sleep),
                ("next boot: once PCR 11 is capped it opens no more", self.capped),
                ("next boot: power off", self.power_off),
                ("Secure Boot switched off: seen by guest, log and PCR 7", self.boot_insecure),
                ("Secure Boot switched off: neither key opens", self.stays_closed),
                ("Secure Boot switched off: power off", self.power_off),
                ("db changed: Secure Boot stays on, PCR 7 is another", self.boot_other_database),
                ("db changed: neither key opens", self.stays_closed),
                ("physical presence: the firmware asks before it clears the TPM, and does it", self.clear),
                ("physical presence: keys and passwords are gone, the certificate is not", self.cleared),
                ("physical presence: power off", self.power_off)]

    def _boot(self, label, **options):
        if not os.path.exists(self.disk):
            medium.make_disk(self.disk, os.path.join(self.cache, "vmlinuz"), make_initramfs(self.cache),
                             "console=ttyS0 loglevel=0 panic=-1", medium.fetch(self.cache))
        self.guest = SecureGuest(self.folder, self.cache, self.tpm, label, progress=self.progress,
                                 disks=[self.disk], **options).__enter__()
        self.guest.boot()
        self.log = EventLog(bytes.fromhex("".join(self.guest.ask("log"))))
        self.booted[label] = self.log
        self.live = pcrs(self.guest)

    def _variable(self, name):
        return bytes.fromhex(self.guest.ask("variable", f"{name}-{GLOBAL}")[0])[4:]

    def boot_signed(self):
        self._boot("signed")
        return "OVMF with SMM, shim, GRUB, Debian's kernel"

    def secure(self):
        require(self._variable("SecureBoot") == b"\1", "the variable SecureBoot is not 1")
        require(self._variable("SetupMode") == b"\0", "the firmware is in set-up mode")
        lockdown = self.guest.ask("lockdown")[0]
        require("[integrity]" in lockdown, "the kernel was not told: " + lockdown)
        return "SecureBoot 1, SetupMode 0, lockdown integrity"

    def replay(self):
        require("sha256" in self.log.banks, f"banks of the log: {self.log.banks}")
        replayed = self.log.replay()
        for index in MEASURED:
            require(("sha256", index) in replayed, f"the event log has nothing for PCR {index}")
        for (bank, index), value in replayed.items():
            if any(name == bank for name, _ in self.live):
                require(self.live[bank, index] == value, f"PCR {index} ({bank}) is {self.live[bank, index]}, its log {value}")
        return f"version {self.log.specification}, {len(self.log.events)} events, PCRs {sorted(i for _, i in replayed)}"

    def policy_events(self):
        events = self.log.of(7)
        names = [variable(event)[0] for event in events if event.kind == VARIABLE_CONFIG]
        require(names[:5] == ["SecureBoot", "PK", "KEK", "db", "dbx"], f"order of the variables: {names}")
        require(variable(events[0])[1] == b"\1", "SecureBoot was measured as off")
        kinds = [event.kind for event in events]
        require(kinds[:6] == [VARIABLE_CONFIG] * 5 + [SEPARATOR], f"kinds of event: {kinds}")
        store = VariableStore(self.variables)
        require(variable(events[3])[1] == store.get("db", IMAGE_SECURITY_DATABASE), "another db was measured")
        return ", ".join(names[:5]) + ", separator"

    def authority(self):
        """The firmware measures the entry of db that verified the loader, before it starts it."""
        first = next(event for event in self.log.of(7) if event.kind == VARIABLE_AUTHORITY)
        name, entry = variable(first)
        require(name == "db" and MICROSOFT in entry, f"what verified shim is in {name}: {entry[:64].hex()}...")
        known = signatures(VariableStore(self.variables).get("db", IMAGE_SECURITY_DATABASE))
        require((CERT_X509, entry) in known, "the certificate that was measured is not in db")
        return MICROSOFT.decode()

    def acpi_table(self):
        """TCG ACPI Specification, "TPM2 table": signature, class, start method 7 is the command response buffer."""
        table = bytes.fromhex(self.guest.ask("table")[0])
        require(table[:4] == b"TPM2" and sum(table) % 256 == 0, "no table TPM2, or its checksum is wrong")
        revision, kind, control, method = table[8], *struct.unpack_from("<H2xQI", table, 36)
        require((kind, method) == (0, 7) and control, f"class {kind}, start method {method}, control area 0x{control:x}")
        minimum, address = struct.unpack_from("<IQ", table, 64)
        require(minimum and address, "it names no event log area")
        return f"revision {revision}, start method 7 (CRB), control area 0x{control:x}, log area of {minimum} bytes"

    def presence(self):
        version, request, response, *operations = self.guest.ask("ppi")
        allowed = {int(line.split()[0]): int(line.split()[1].rstrip(":")) for line in operations}
        # TCG Physical Presence Interface 1.3, table 1 and "return user confirmation": 5 clears the TPM, 23 sets its banks
        require(version.startswith("1.3") and allowed.get(5, 0) >= 3, f"version {version}, operations {allowed}")
        require(self.guest.ask("request", "5")[0].split()[0] == "5", "a request to clear is not kept")
        require(self.guest.ask("request", "0")[0].split()[0] == "0", "it is not taken back")
        return f"version {version}, {len(operations)} operations, request {request}, response {response}"

    def properties(self):
        text = "\n".join(self.guest.ask("properties"))
        family = text.split("TPM2_PT_FAMILY_INDICATOR:")[1].split("TPM2_PT")[0]
        require('"2.0"' in family, "family: " + family)
        require("sha256: [ 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23 ]" in text,
                "not all PCRs of SHA-256: " + text[-400:])
        return "PCR 0 to 23 of SHA-256"

    def certificate(self):
        leaf, chain = (os.path.join(self.folder, name) for name in ("leaf.der", "chain.pem"))
        for path, data in ((leaf, bytes.fromhex(self.guest.ask("certificate")[0])), (chain, self.tpm.authority())):
            with open(path, "wb") as file:
                file.write(data)
        done = subprocess.run(["openssl", "verify", "-CAfile", chain, leaf], capture_output=True, text=True, timeout=60,
                              check=False)
        require(done.returncode == 0, "openssl verify: " + done.stderr)
        return "read in the guest at 0x01c00002, verified by the authority's chain"

    def storage_root_key(self):
        text = "\n".join(self.guest.ask("srk"))
        require("bits: 2048" in text and "raw: 0x30472" in text and "sym-keybits: 128" in text, text)
        return "RSA 2048, AES-128 CFB, attributes 0x30472, persistent"

    def own(self):
        self.guest.ask("own", secrets.token_hex(20), secrets.token_hex(20))
        text = "\n".join(self.guest.ask("properties"))
        for line in ("ownerAuthSet: +1", "lockoutAuthSet: +1", "MAX_AUTH_FAIL: 0x20", "LOCKOUT_INTERVAL: 0x258",
                     "LOCKOUT_RECOVERY: 0x15180"):
            require(re.search(line, text), f"{line} is not in {text}")
        return "passwords of owner and lockout; 32 failures, 10 minutes, 24 hours"

    def seal(self):
        require(self.live["sha256", 11] == "0" * 64, "PCR 11 is in use already")
        self.sealed = self.guest.ask("seal", self.secret.hex())
        self.sealed_with_pin = self.guest.ask("seal", self.pin_secret.hex(), PIN.encode().hex())
        require(self._opened() and self._opened(PIN), "what was sealed does not open")
        return "32 bytes each, kept by the host as a disk would"

    def _opened(self, pin=None, refusal=POLICY_FAIL):
        """Whether the key opens; where it does not, the TPM must have given REFUSAL."""
        sealed, secret = (self.sealed_with_pin, self.pin_secret) if pin else (self.sealed, self.secret)
        status, lines = self.guest.ask("unseal", *sealed, *([pin.encode().hex()] if pin else []), may_fail=True)
        if status == 0:
            return lines[-1].split()[0] == hashlib.sha256(secret).hexdigest()
        require(refusal in " ".join(lines), "refused, but not for that: " + " ".join(lines))
        return False

    def boot_again(self):
        before = self.live
        self._boot("again")
        for index in (0, 2, 4, 7, 11):
            require(self.live["sha256", index] == before["sha256", index], f"PCR {index} is another")
        return "PCR 7 " + self.live["sha256", 7][:16] + "..."

    def opens(self):
        require(self._opened(), "it does not open")
        return "all 32 bytes equal"

    def opens_with_pin(self):
        require(not self._opened("654321", AUTH_FAIL), "it opens with another PIN")
        require(self._opened(PIN), "it does not open")
        return "a wrong PIN is an authorization failure"

    def sleep(self):
        self.guest.sleep_and_wake()
        live = pcrs(self.guest)
        for index in range(16):  # later ones are reset: TCG PC Client Platform TPM Profile, "PCR Attributes"
            require(live["sha256", index] == self.live["sha256", index], f"PCR {index} is another")
        require(self._opened() and self._opened(PIN), "a key does not open")
        return "PCR 0 to 15 as before; both keys open"

    def capped(self):
        """As Windows' boot manager does when it has the key, so that what runs later cannot ask for it again."""
        self.guest.ask("extend", "11", hashlib.sha256(bytes(4)).hexdigest())
        require(not self._opened() and not self._opened(PIN), "it opens")
        return "TPM_RC_POLICY_FAIL"

    def _changed(self, label):
        """The names of the variables in PCR 7 that are others than in the signed boot."""
        def measured(log):
            return {variable(event)[0]: event.data for event in log.of(7) if event.kind == VARIABLE_CONFIG}
        first, now = measured(self.booted["signed"]), measured(self.booted[label])
        return sorted(name for name in first if first[name] != now.get(name))

    def _boot_changed(self, label, change, **options):
        before = self.live
        store = VariableStore(self.variables)
        change(store)
        store.save()
        self._boot(label, **options)
        self.replay()
        require(self.live["sha256", 7] != before["sha256", 7], "PCR 7 is the same")
        require(self.live["sha256", 11] == "0" * 64, "PCR 11 is another, too")

    def boot_insecure(self):
        shutil.copy(self.variables, self.variables + ".good")
        self._boot_changed("insecure", VariableStore.switch_secure_boot_off)
        require(self._variable("SecureBoot") == b"\0", "the variable SecureBoot is not 0")
        require(self._changed("insecure") == ["SecureBoot"], f"changed: {self._changed('insecure')}")
        return "SecureBoot 0; the same keys"

    def stays_closed(self):
        require(not self._opened(), "the volume key opens")
        require(not self._opened(PIN), "the volume key with PIN opens")
        return "TPM_RC_POLICY_FAIL, also with the right PIN"

    def boot_other_database(self):
        os.replace(self.variables + ".good", self.variables)
        self._boot_changed("other-db", lambda store: store.allow(hashlib.sha256(b"somebody else's loader").digest()),
                           reboots=True)
        require(self._variable("SecureBoot") == b"\1", "the variable SecureBoot is not 1")
        require(self._changed("other-db") == ["db"], f"changed: {self._changed('other-db')}")
        return "SecureBoot 1; one more entry in db"

    def clear(self):
        """As Clear-Tpm does in Windows. The firmware resets once more when it has cleared the TPM."""
        require(self.guest.ask("request", "5")[0].split()[0] == "5", "the request is not kept")
        self.guest.reset()
        self.guest.expect(rb"Press F12 to clear the TPM", "the firmware to ask")
        self.guest.expect(rb"Press ESC to reject", "the firmware to say how to refuse")
        self.guest.qmp.command("send-key", keys=[{"type": "qcode", "data": "f12"}])
        self.guest.boot()
        response = self.guest.ask("ppi")[2]
        require(response.startswith("5 0"), "what the firmware says of it: " + response)
        return response

    def cleared(self):
        text = "\n".join(self.guest.ask("properties"))
        for line in ("ownerAuthSet: +0", "lockoutAuthSet: +0", "TPM2_PT_HR_PERSISTENT: 0x0"):
            require(re.search(line, text), f"{line} is not in {text}")
        self.certificate()
        status, _ = self.guest.ask("unseal", *self.sealed, may_fail=True)
        require(status != 0, "a volume key opens")
        return "no storage root key, no passwords; the certificate still verifies"


class Refusals(SecureBoot):
    """A loader without a signature, then shim with a GRUB that was changed: neither starts."""

    def steps(self):
        return [("refused: a loader without a signature, by the firmware", self.unsigned),
                ("refused: a changed GRUB, by shim", self.changed)]

    def _disk(self, name, image):
        """The medium with its file NAME replaced."""
        path, source = (os.path.join(self.folder, f"{name}.{kind}") for kind in ("img", "efi"))
        with open(source, "wb") as file:
            file.write(image)
        shutil.copy(self.disk, path)
        medium.put(path, f"{medium.LOADER_FOLDER}/{name}", source)
        return path

    def unsigned(self):
        loaders = medium.fetch(self.cache)
        images = {}
        for name in ("BOOTX64.EFI", "grubx64.efi"):
            with open(os.path.join(loaders, name), "rb") as file:
                images[name] = file.read()
        self.guest = SecureGuest(self.folder, self.cache, self.tpm, "refused", progress=self.progress,
                                 disks=[self._disk("BOOTX64.EFI", without_signature(images["BOOTX64.EFI"])),
                                        self._disk("grubx64.efi", altered(images["grubx64.efi"]))]).__enter__()
        said = self.guest.expect(rb"failed to load Boot\d+[^\r\n]*: ([A-Za-z ]+)\r?\n", "the firmware to refuse")
        require(said.group(1) in (b"Access Denied", b"Security Violation"), "it said " + said.group(1).decode())
        return said.group(1).decode()

    def changed(self):
        said = self.guest.expect(rb"(Verification failed: \(\w+\)|[Bb]ad shim signature|Welcome to GRUB)", "shim to refuse")
        require(said.group(1) != b"Welcome to GRUB", "the changed GRUB runs")
        self.guest.quit()
        self.close()
        return said.group(1).decode()
