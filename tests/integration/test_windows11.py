#!/usr/bin/python3
# SPDX-License-Identifier: BSD-3-Clause
"""TAP: the harness for Windows 11 (qemu/windows11), whole against its free medium, and what it says to bad input.

Nothing here is Windows: what an image must have is looked at in images of our own, and no installation of one is begun.
Environment as test_guest.py; VTPM_TEST_GUEST=skip skips what boots, VTPM_TEST_WINDOWS11=whole runs all of it under libvirt, too.
"""
import contextlib
import glob
import hashlib
import importlib.machinery
import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from xml.etree import ElementTree

sys.dont_write_bytecode = True
HERE = os.path.dirname(os.path.realpath(__file__))
QEMU_FOLDER = os.path.join(HERE, "..", "..", "qemu")
HARNESS = os.path.join(QEMU_FOLDER, "windows11")
sys.path[:0] = [os.path.join(QEMU_FOLDER, "windows"), QEMU_FOLDER, HERE]
import answers  # noqa: E402
import free_medium  # noqa: E402
import guest  # noqa: E402
import iso  # noqa: E402
import libvirt  # noqa: E402
import medium  # noqa: E402
import windows_media  # noqa: E402
from machine import Machine, make_disk  # noqa: E402
from tpms import GuestError, Vtpm  # noqa: E402

NAMESPACE = "{urn:schemas-microsoft-com:unattend}"
PROMPT_LIMIT = 20  # enough to come to the question on an idle machine
LIBVIRT_LIMIT = 5
SCREEN = 24


class Failed(Exception):
    pass


def require(condition, text):
    if not condition:
        raise Failed(text)


def run(folder, *arguments, status=0, limit=600, **environment):
    """The harness in a folder of its own, which has its TMPDIR; afterwards that is empty."""
    place = os.path.join(folder, "tmp")
    os.makedirs(place, exist_ok=True)
    done = subprocess.run([HARNESS, *arguments], cwd=folder, env=dict(os.environ, TMPDIR=place, **environment), stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=limit, check=False)
    require(done.returncode == status, f"exit {done.returncode}, not {status}: {done.stdout}")
    require(os.listdir(place) == [], f"left behind: {os.listdir(place)}")
    require("Traceback" not in done.stdout, done.stdout)
    return done.stdout


def processes(folder):
    """Those that have FOLDER in their command line or work in it."""
    found = []
    for path in glob.glob("/proc/[0-9]*"):
        try:
            with open(path + "/cmdline", "rb") as file:
                line = file.read().decode(errors="replace")
            if int(path[6:]) != os.getpid() and (folder in line or os.readlink(path + "/cwd").startswith(folder)):
                found.append(line.replace("\0", " "))
        except OSError:
            continue
    return found


def report_of(folder):
    with open(os.path.join(folder, "report.json"), encoding="utf-8") as file:
        return json.load(file)


def page_command(label):
    """The arguments of the command in docs/windows11.md."""
    with open(os.path.join(HERE, "..", "..", "docs", "windows11.md"), encoding="utf-8") as file:
        found = re.search(rf"^```sh {label}\nqemu/windows11 (.*)\n```$", file.read(), re.M)
    require(found, f"docs/windows11.md has no command '{label}' of one line")
    return found.group(1).split()


# --- what needs no guest

def test_images(folder):
    """an image is read from its own structures: edition, build, language; what is not Windows 11 is told"""
    path = os.path.join(folder, "w.iso")

    def refused(word, make=None, **options):
        if make:
            make(path, **options)
        elif options:
            windows_media.windows(path, **options)
        try:
            image = iso.read(path)
        except GuestError as error:
            require(word in str(error) and path in str(error), f"not '{word}': {error}")
        else:
            raise Failed(f"taken, not '{word}': {vars(image)}")

    windows_media.windows(path, language="de-DE")
    image = iso.read(path)
    require((image.kind, image.edition, image.index, image.build, image.language) == ("windows", "Professional", "2", 26100, "de-DE"),
            f"read as {vars(image)}")
    refused("is not Windows 11: Windows 11 Professional is build 19045", build=19045)
    refused("another processor: architecture 12", arch=12)
    refused("no edition with BitLocker, only Windows 11 Core", editions=("Core", "CoreN"))
    refused("language", language="../x")
    boot, install = {"sources/boot.wim": windows_media.wim(["PE"])}, {"sources/install.wim": windows_media.wim(["Professional"])}
    refused("it has no sources/boot.wim", windows_media.make, files=install)
    refused("neither sources/install.wim nor install.esd", windows_media.make, files=boot)
    refused("no UDF file system", windows_media.make, files={**boot, **install}, udf=False)
    refused("does not boot with UEFI", windows_media.make, files={**boot, **install}, efi=False)
    refused("install.wim that is damaged", windows_media.make, files={**boot, "sources/install.wim": b"no WIM" * 1000})
    for data, word in ((b"", "is no ISO image: it has 0 bytes"), (b"x" * 60000, "is no ISO image: it has no ISO 9660")):
        with open(path, "wb") as file:
            file.write(data)
        refused(word)
    os.unlink(path)
    refused("No such file")
    os.mkdir(path)
    refused("Is a directory")


def test_truncated(folder):
    """an image cut anywhere is told, and bytes that were changed never end in a trace of Python"""
    path = os.path.join(folder, "w.iso")
    windows_media.windows(path)
    with open(path, "rb") as file:
        whole = file.read()
    for part in (0.999, 0.7, 0.5, 0.3):
        with open(path, "wb") as file:
            file.write(whole[:int(len(whole) * part)])
        try:
            iso.read(path)
        except GuestError as error:
            require("is truncated" in str(error), f"{part}: {error}")
        else:
            raise Failed(f"taken when {part} of it is there")
    # the structures stand at the front: descriptors, UDF, folders
    used = [at for at in range(32768, len(whole) - 16, 8) if any(whole[at:at + 8]) and at < 800 << 10]
    refusals = 0
    for number, at in enumerate(used[::max(1, len(used) // 600)]):
        with open(path, "wb") as file:
            file.write(whole[:at] + (b"\xff", b"\0", b"\x80", hashlib.sha256(b"%d" % number).digest())[number % 4][:1] * 4 + whole[at + 4:])
        try:
            iso.read(path)
        except GuestError:
            refusals += 1
    require(refusals > 20, f"only {refusals} of the changed images were refused")
    return f"{refusals} of 600 changed ones refused"


def test_answer_file(folder):
    """the answer file is well formed, complete and switches no check off; the password is another each time"""
    del folder
    texts = {}
    for edition in (*iso.EDITIONS, None):
        image = iso.Image("x", "windows", edition, "3", 26100, "de-DE", "x")
        for virtio in (False, True):
            text = answers.text(image, virtio)
            root = ElementTree.fromstring(text)
            texts[edition, virtio] = text
            passes = [part.get("pass") for part in root.findall(NAMESPACE + "settings")]
            require(passes == ["windowsPE", "specialize", "oobeSystem"], f"passes {passes}")
            require(not re.search("@|Bypass[A-Za-z]+Check|LabConfig|MoSetup|AllowUpgrades", text), text)
            keys = [key.findtext(NAMESPACE + "Key") for key in root.iter(NAMESPACE + "ProductKey")]
            require(keys == ([answers.PRODUCT_KEYS[edition]] if edition in answers.PRODUCT_KEYS else []), f"{edition}: {keys}")
            require(("viostor" in text) == virtio, "drivers: " + text)
            require(root.find(f".//{NAMESPACE}MetaData/{NAMESPACE}Value").text == "3", "the image's index")
            require(text.count("de-DE") == 7, "the language of the image")
    require(len(set(re.findall("<Value>(.*)</Value>", "".join(texts.values())))) == len(texts) + 1, "passwords are alike")


def test_verbs(folder):
    """the agent for Windows and that of the free medium answer the same requests, and all that the harness asks"""
    del folder
    with open(os.path.join(QEMU_FOLDER, "windows", "agent.ps1"), encoding="utf-8") as file:
        agent = file.read()
    with open(os.path.join(QEMU_FOLDER, "windows", "setup.sh"), encoding="utf-8") as file:
        setup = file.read()
    windows = set(re.findall(r"^  '([a-z-]+)' +=", agent, re.M))
    free = {name.replace("_", "-") for name in re.findall(r"^verb_([a-z_]+) \(\)", setup, re.M)} | {"reboot", "poweroff"}
    require(windows == free, f"not in both: {windows ^ free}")
    asked = set()
    for name in ("windows11", "windows/machine.py", "windows/drill.py"):
        with open(os.path.join(QEMU_FOLDER, name), encoding="utf-8") as file:
            text = file.read()
        asked |= set(re.findall(r'(?:\.ask|\.put)\("([a-z-]+)"', text))
        for line in re.findall(r"^QUESTIONS = \((.*)\)", text, re.M):
            asked |= set(re.findall('"([a-z]+)"', line))
    require(asked == windows, f"asked and answered differ: {asked ^ windows}")
    for name in ("{", "(", "["):
        require(agent.count(name) == agent.count({"{": "}", "(": ")", "[": "]"}[name]), f"agent.ps1: {name} is not closed")


class ListeningMachine:
    """Writes down what it is asked for."""

    def __init__(self):
        self.asked, self.qmp = [], None
        self.eject = lambda: self.asked.append("eject")
        self.answer_prompt = self.qemu_log = None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def ask(self, verb, limit=0):
        self.asked.append(verb)
        return 0, {}, []

    def ready(self, limit, idle=None):
        self.asked.append("ready")
        return "ready"


def test_medium(folder):
    """Windows' medium is taken out before the restart that BitLocker waits for; the free one stays"""
    loader = importlib.machinery.SourceFileLoader("windows11", HARNESS)
    program = importlib.util.module_from_spec(importlib.util.spec_from_loader("windows11", loader))
    loader.exec_module(program)
    program.SETTLE = 0
    for kind, asked in (("windows", ["ready", "eject", "reboot", "ready"]), ("free", ["ready"])):
        options = program.parse(["--free-medium"])
        harness, machine = program.Harness(options, iso.Image("x", kind), folder, folder), ListeningMachine()
        harness.say = lambda text: None
        with contextlib.ExitStack() as running:
            harness.install(running, machine)
        require(machine.asked == asked, f"{kind}: {machine.asked}")


def test_usage(folder):
    """options that do not fit: exit 2, nothing made"""
    windows_media.windows(os.path.join(folder, "w.iso"))
    os.makedirs(os.path.join(folder, "full", "x"))
    for arguments, word in (((), "required"), (("--iso", "w.iso", "--free-medium"), "not allowed"),
                            (("--iso", "w.iso", "--disk", "20G"), "64G"), (("--iso", "w.iso", "--disk", "much"), "--disk much"),
                            (("--free-medium", "--limit", "tea=5"), "--limit tea=5"), (("--free-medium", "--limit", "install"), "--limit"),
                            (("--free-medium", "--keep", "full"), "there is something in it")):
        require(word in run(folder, *arguments, status=2), f"{arguments}: not '{word}'")
    require(not os.path.exists(os.path.join(folder, "windows11-report")), "a report was begun")


def test_wrong_iso(folder):
    """a wrong image: exit 1, one line, nothing made"""
    with open(os.path.join(folder, "w.iso"), "wb") as file:
        file.write(b"x" * 60000)
    for arguments, word in ((("--iso", "w.iso"), "is no ISO image"), (("--iso", "none.iso"), "No such file")):
        said = run(folder, *arguments, status=1)
        require(word in said and len(said.splitlines()) == 1, said)
    windows_media.windows(os.path.join(folder, "ok.iso"))
    require("is no ISO image" in run(folder, "--iso", "ok.iso", "--virtio-iso", "w.iso", status=1), "the drivers' image is not looked at")
    require("not in PATH" in run(folder, "--iso", "ok.iso", status=1, VTPM="/nonexistent/vtpm"), "the program is not looked for")
    require(sorted(os.listdir(folder)) == ["ok.iso", "tmp", "w.iso"], f"left: {os.listdir(folder)}")


def test_no_kvm(folder):
    """the page's command; no KVM: Windows is not begun, and a word says so"""
    windows_media.windows(os.path.join(folder, "Win11.iso"))
    said = run(folder, *page_command("harness"), status=1)
    require("no KVM" in said and "--free-medium" in said, said)


def test_no_space(folder):
    """no space: how much there is, and how much is needed"""
    os.mkdir(os.path.join(folder, "small"))
    done = subprocess.run(["unshare", "-m", "--propagation", "private", "sh", "-c",
                           f"mount -t tmpfs -o size=64m small small && TMPDIR=small exec {HARNESS} --free-medium"],
                          cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120, check=False)
    require(done.returncode == 1 and re.search(r"no space: .*small\S* has room for 6\d MiB, 256 are needed", done.stderr), done.stderr)
    require(os.listdir(folder) == ["small"], f"left: {os.listdir(folder)}")


# --- what needs QEMU

FILL = """mount -t tmpfs -o size=320m small small
(for try in $(seq 300); do ! ls small/*/disk.qcow2 >/dev/null 2>&1 || break; sleep 0.2; done
 sleep 2
 head -c 300m /dev/zero >small/full) 2>/dev/null &
TMPDIR=small {harness} --free-medium
status=$?
wait
rm -f small/full
ls small
exit $status
"""


def test_filled(folder):
    """the host's disk fills up in the middle of it: told at once, and removed"""
    os.mkdir(os.path.join(folder, "small"))
    done = subprocess.run(["unshare", "-m", "--propagation", "private", "sh", "-c", FILL.format(harness=HARNESS)], cwd=folder,
                          stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=300, check=False)
    require(done.returncode == 1 and re.search(r"install: .*no space left: .* has room for \d+ MiB more", done.stdout), done.stdout)
    require(done.stdout.splitlines()[-1].startswith("The report: "), "left behind: " + done.stdout)
    require(processes(folder) == [], f"processes left: {processes(folder)}")


def test_machine(folder):
    """QEMU takes the machine for Windows, with drivers of its own and with virtio's"""
    tpm = Vtpm(folder)
    tpm.create()
    for number, virtio in enumerate((False, True)):
        disk, image = os.path.join(folder, f"{number}.qcow2"), os.path.join(folder, f"{number}.iso")
        make_disk(disk, "64G")
        windows_media.make(image, {"x": b"x"})
        with Machine(folder, tpm, f"vm{number}", "windows", disk, image, [image, image], virtio) as machine:
            require(machine.qmp.command("query-status")["status"] == "running", "it does not run")
            devices = {block.get("device") for block in machine.qmp.command("query-blockstats")}
            require({"disk", "medium", "cd1", "cd2"} <= devices, f"its drives: {devices}")
            machine.answer_prompt()
            picture = machine.screenshot(os.path.join(folder, "screen"))
            require(picture and os.path.getsize(picture) > 100, "no screenshot")
            machine.eject()
            inside = [block["device"] for block in machine.qmp.command("query-block") if "inserted" in block and "removable" in block
                      and block["removable"]]
            require(inside == [], f"CDs that are still in: {inside}")


def test_stops(folder):
    """a guest that stops at a prompt: the stage's time limit, words, a screenshot; kept as asked, and else removed"""
    free_medium.make(os.path.join(folder, "asks.iso"), guest.prepare(), ask="edition")
    said = run(folder, "--iso", "asks.iso", "--keep", "kept", "--limit", f"install={PROMPT_LIMIT}", status=1)
    require(re.search(rf"install: the guest to answer: nothing of the kind within {PROMPT_LIMIT} s.*install\.(png|ppm)", said), said)
    require("not finished" in said, said)
    kept = os.listdir(os.path.join(folder, "kept"))
    require({"disk.qcow2", "guest.vtpm", "report.json", "vm-qemu.log"} <= set(kept), f"kept: {kept}")
    picture = next(name for name in kept if name.startswith("install.p"))
    with open(os.path.join(folder, "kept", picture), "rb") as file:
        require(file.read(4)[:2] in (b"\x89P", b"P6"), "the screenshot is no picture")
    report = report_of(os.path.join(folder, "kept"))
    require((report["passed"], report["stages"][-1]["ok"], report["stages"][-1]["screenshot"]) == (False, False, picture), str(report))
    require(processes(folder) == [], f"processes left: {processes(folder)}")


def test_interrupted(folder):
    """Ctrl-C and SIGTERM in the middle of a stage: exit 130, no file and no process left; vtpm is not installed, only built"""
    os.symlink(os.path.dirname(os.environ["VTPM"]), os.path.join(folder, "build"))
    built = {name: value for name, value in os.environ.items() if name not in ("VTPM", "VTPM_LIBEXEC_DIR")}
    for number in (signal.SIGINT, signal.SIGTERM):
        place = os.path.join(folder, "tmp")
        os.makedirs(place, exist_ok=True)
        with subprocess.Popen([HARNESS, "--free-medium"], cwd=folder, env=dict(built, TMPDIR=place), stdin=subprocess.DEVNULL,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as harness:
            for line in harness.stdout:
                if "install" in line:
                    break
            time.sleep(1)
            require(any("qemu" in line for line in processes(place)), "QEMU does not run")
            harness.send_signal(number)
            said = harness.communicate(timeout=60)[0]
        require(harness.returncode == 130 and "interrupted" in said and "Traceback" not in said, f"exit {harness.returncode}: {said}")
        require(os.listdir(place) == [], f"left: {os.listdir(place)}")
        require(processes(place) == [], f"processes left: {processes(place)}")


def test_whole(folder):
    """the page's other command: the free medium is installed, asked, encrypted, restarted, cloned three ways; the report"""
    said = run(folder, *page_command("free-medium"))
    report = report_of(os.path.join(folder, "windows11-report"))
    require(report["passed"] and report["error"] is None, said)
    require([stage["name"] for stage in report["stages"]] == ["vtpm", "answers", "disk", "install", "questions", "bitlocker", "restart",
                                                              "switch-off", "copy", "reidentify", "replace"], str(report["stages"]))
    for stage in report["stages"]:
        require(len(re.findall(rf"^\[ *[\d.]+ s\] {stage['name']}\b", said, re.M)) == 2, f"{stage['name']}: no progress line")
    require(len(report["findings"]) == 11 and all(finding["ok"] for finding in report["findings"]), str(report["findings"]))
    summary = said.split("\n\n", 1)[1].strip().splitlines()
    require(len(summary) <= SCREEN and sum(line.startswith("  ok ") for line in summary) == 11, "\n".join(summary))
    facts = {name: answer["facts"] for name, answer in report["answers"].items()}
    with open(os.path.join(QEMU_FOLDER, "windows", "agent.ps1"), "rb") as file:
        agent = hashlib.sha256(file.read().replace(b"\n", b"\r\n")).hexdigest()
    require(facts["windows"]["agent"] == agent, "the agent did not come through as it is")
    require("named " + answers.COMPUTER in report["answers"]["windows"]["lines"][0], "the answer file was not read")
    require(facts["windows"]["secureboot-state"] == "1", "Secure Boot is off")
    require("recovery" not in facts and not re.search(r"(\d{6}-){7}\d{6}", json.dumps(report) + said), "the recovery password is told")
    require(sorted(os.listdir(folder)) == ["tmp", "windows11-report"], f"left: {os.listdir(folder)}")
    require(os.listdir(os.path.join(folder, "windows11-report")) == ["report.json"], "more than the report")
    require(processes(folder) == [], f"processes left: {processes(folder)}")
    return "\n".join(summary)


def libvirt_started(folder, host, uri):
    """A domain that is there, with our TPM in it, until its time is over."""
    said = run(folder, "--free-medium", "--libvirt", uri, "--limit", f"install={LIBVIRT_LIMIT}", status=1)
    require(re.search(rf"nothing of the kind within {LIBVIRT_LIMIT} s.*install\.(png|ppm)", said), said)
    require(host.virsh("list", "--all", "--name").stdout.strip() == "", "the domain is still there")


def libvirt_whole(folder, host, uri):
    said = run(folder, "--free-medium", "--libvirt", uri)
    report = report_of(os.path.join(folder, "windows11-report"))
    require(report["passed"] and len(report["findings"]) == 8, said)
    require(host.virsh("list", "--all", "--name").stdout.strip() == "", "the domain is still there")


def test_libvirt(folder):
    """--libvirt: a domain of a real libvirtd, with vtpm's swtpm; afterwards it is gone. Stock swtpm is told"""
    build = os.path.dirname(os.environ["VTPM"])
    host = libvirt.Libvirt(os.path.join(build, "swtpm-compat"), build)
    whole = os.environ.get("VTPM_TEST_WINDOWS11") == "whole"
    try:
        host.start()
        uri = "qemu+unix:///system?socket=" + os.path.join(host.place("/run/libvirt"), "libvirt-sock")
        (libvirt_whole if whole else libvirt_started)(folder, host, uri)
        host.use(None)
        said = run(folder, "--free-medium", "--libvirt", uri, status=1)
        require("another swtpm than ours" in said, said)
        require(host.virsh("list", "--all", "--name").stdout.strip() == "", "the domain is still there")
    finally:
        host.end()
    return None if whole else "VTPM_TEST_WINDOWS11=whole installs, asks, encrypts and restarts it as well: three boots"


PLAIN = (test_images, test_truncated, test_answer_file, test_verbs, test_medium, test_usage, test_wrong_iso, test_no_kvm, test_no_space)
BOOTING = (test_machine, test_filled, test_stops, test_interrupted, test_whole, test_libvirt)


def reason(test):
    if not shutil.which("genisoimage"):
        return "genisoimage is not installed"
    lack = medium.missing() or guest.missing() or Vtpm("/nonexistent").missing()
    if test in (*BOOTING, test_usage, test_wrong_iso, test_no_kvm, test_no_space) and lack:
        return lack
    if test in BOOTING and os.environ.get("VTPM_TEST_GUEST") == "skip":
        return "VTPM_TEST_GUEST=skip"
    if test is test_libvirt and libvirt.missing():
        return libvirt.missing()
    if test is test_no_kvm and guest.accelerator() == "kvm":
        return "this host has KVM"
    if test in (test_no_space, test_filled) and subprocess.run(["unshare", "-m", "true"], capture_output=True, check=False).returncode != 0:
        return "there are no private mount namespaces"
    return None


def main():
    os.environ.setdefault("VTPM", "./vtpm")
    for name in ("VTPM", "VTPM_LIBEXEC_DIR", "VTPM_TEST_CACHE"):  # the harness runs in other folders
        if name in os.environ:
            os.environ[name] = os.path.abspath(os.environ[name])
    os.environ.setdefault("VTPM_TEST_CACHE", os.path.abspath("guest-cache"))
    failed = 0
    for number, test in enumerate((*PLAIN, *BOOTING), 1):
        name = test.__doc__.strip()
        skip = reason(test)
        if skip:
            print(f"ok {number} - {name} # SKIP {skip}", flush=True)
            continue
        folder = tempfile.mkdtemp(prefix="vtpm-windows11.")
        try:
            told = test(folder)
            print(f"ok {number} - {name}", flush=True)
        except (Failed, GuestError, OSError, subprocess.SubprocessError, LookupError, StopIteration) as error:
            failed += 1
            told = f"{type(error).__name__}: {error}"
            print(f"not ok {number} - {name}", flush=True)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        if told:
            print("# " + told.replace("\n", "\n# "), flush=True)
    print(f"1..{len(PLAIN) + len(BOOTING)}", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
