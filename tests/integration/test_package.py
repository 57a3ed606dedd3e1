#!/usr/bin/python3
# SPDX-License-Identifier: BSD-3-Clause
"""The Debian package: built, installed, upgraded, removed and purged, with swtpm's packages beside it and without,
with states of ours and without. Each in a copy of this host that is thrown away (see overlay.py)."""
import gzip
import os
import re
import shutil
import stat
import subprocess

from device import Skip, contains, lacks, main, need_root, same, true
from package import build, copy_of_host, make_deb
from swtpm import loop_device

NAMES = ("swtpm", "swtpm_setup", "swtpm_ioctl")
PROFILE = "/etc/apparmor.d/usr.bin.swtpm"
ASIDE = PROFILE + ".distrib.dpkg-bak"
STATES = "/var/lib/libvirt/swtpm"
VM = "7d444840-9dc0-41d1-b245-5ffdce74fad2"
OTHER_VM = "00112233-4455-6677-8899-aabbccddeeff"


def said(done, status=0):
    same(done.returncode, status, "%r said %s" % (done.args, done.stdout))
    return done.stdout


def dpkg(host, *arguments, status=0):
    return said(host.run("dpkg", *arguments), status)


def is_ours(host, path):
    return "served by vtpm" in host.run(path, "--help").stdout + host.run(path, "socket", "--help").stdout \
        or "vtpm" in host.run(path, "--version").stdout


def diverted(host):
    """Which names are, and to which."""
    found = re.findall(r"^diversion of (\S+) to (\S+) by vtpm$", host.run("dpkg-divert", "--list").stdout, re.M)
    return dict(found)


def without_swtpm(host):
    """What apt would take with them stays: it is not asked."""
    dpkg(host, "--purge", "--force-depends", "swtpm-tools", "swtpm")
    host.run("userdel", "tss")
    host.run("groupdel", "tss")


def need_swtpm():
    for name in NAMES:
        if not os.access("/usr/bin/" + name, os.X_OK):
            raise Skip("swtpm and swtpm-tools are not installed")


def repack(package, name, change):
    """A package like PACKAGE, in the current folder, with what CHANGE did to its unpacked files."""
    shutil.rmtree(name, ignore_errors=True)
    subprocess.run(["dpkg-deb", "-R", package, name], check=True, timeout=60)
    change(name)
    subprocess.run(["dpkg-deb", "--root-owner-group", "-Znone", "-b", name, name + ".deb"], check=True, timeout=60,
                   stdout=subprocess.DEVNULL)
    return os.path.abspath(name + ".deb")


def edit(path, old, new):
    with open(path, encoding="utf-8") as file:
        text = file.read()
    true(old in text, "%r is not in %s" % (old, path))
    with open(path, "w", encoding="utf-8") as file:
        file.write(text.replace(old, new))


def with_version(number):
    def change(folder):
        edit(folder + "/DEBIAN/control", "Version: 0.1.0-1", "Version: " + number)
        edit(folder + "/usr/share/doc/vtpm/README.md", "# vtpm", "# vtpm, version " + number)
    return change


def later_swtpm():
    """As a later release of Debian's has it: with an AppArmor profile of its own, a conffile."""
    folder = "later"
    for path in ("DEBIAN", "usr/bin", "etc/apparmor.d"):
        os.makedirs(os.path.join(folder, path))
    files = {"DEBIAN/control": "Package: swtpm\nVersion: 9.9\nArchitecture: all\nMaintainer: nobody <a@b>\n"
                               "Description: swtpm\n",
             "DEBIAN/conffiles": PROFILE + "\n", "usr/bin/swtpm": "#!/bin/sh\necho later swtpm\n",
             PROFILE[1:]: "# later profile\n"}
    for path, text in files.items():
        with open(os.path.join(folder, path), "w", encoding="ascii") as file:
            file.write(text)
    os.chmod(folder + "/usr/bin/swtpm", 0o755)
    subprocess.run(["dpkg-deb", "--root-owner-group", "-b", folder, "later.deb"], check=True, timeout=60,
                   stdout=subprocess.DEVNULL)
    return os.path.abspath("later.deb")


def setup(host, folder, vm):
    """As libvirt makes a TPM: as user tss, in a folder of its own."""
    script = ("mkdir -p -m 0711 %s && mkdir -p %s && chown tss %s && exec setpriv --reuid=tss --regid=tss --init-groups "
              "swtpm_setup --tpm2 --tpm-state %s --vmid vm:%s --createek --create-ek-cert --create-platform-cert "
              "--lock-nvram --not-overwrite" % (STATES, folder, folder, folder, vm))
    return said(host.run("sh", "-c", script))


def answers(host, folder, program="/usr/bin/swtpm"):
    """PROGRAM starts, as user tss, on the state in FOLDER, and answers TPM2_GetRandom."""
    script = r"""
import os, socket, subprocess, sys
program, folder = sys.argv[1:]
ours, theirs = socket.socketpair()
swtpm = subprocess.Popen([program, "socket", "--tpm2", "--tpmstate", "dir=" + folder, "--fd", str(theirs.fileno()),
                          "--flags", "not-need-init,startup-clear"], pass_fds=[theirs.fileno()], user="tss",
                         group="tss", extra_groups=os.getgrouplist("tss", 0))
theirs.close()
ours.settimeout(20)
ours.sendall(bytes.fromhex("80010000000c0000017b0008"))
print(ours.recv(64)[6:10].hex())
swtpm.terminate()
swtpm.wait(20)
"""
    contains(said(host.run("/usr/bin/python3", "-c", script, program, folder)), "00000000")


def facts(host, path):
    info = os.stat(host.path(path))
    names = {}
    for kind in ("passwd", "group"):
        with open(host.path("/etc/" + kind), encoding="utf-8") as file:
            names[kind] = {int(line.split(":")[2]): line.split(":")[0] for line in file}
    return stat.S_IMODE(info.st_mode), names["passwd"].get(info.st_uid), names["group"].get(info.st_gid)


def read(host, path):
    with open(host.path(path), encoding="utf-8") as file:
        return file.read()


def test_build(_place):
    """make deb: the programs for the places of a host, what it depends on, its manual, whom it is from; made anew it is the
    same"""
    package = build()
    with open(package, "rb") as file:
        first = file.read()
    for address, status in (("nobody", 2), ("security@example.com", 0)):
        done = make_deb(DEBFULLNAME="Example Hosting", DEBEMAIL=address)
        same(done.returncode, status, done.stdout)
    same(subprocess.run(["dpkg-deb", "-f", package, "Maintainer"], check=True, timeout=60, stdout=subprocess.PIPE,
                        text=True).stdout, "Example Hosting <security@example.com>\n")
    build.__wrapped__()
    with open(package, "rb") as file:
        true(file.read() == first, "two builds differ")
    fields = subprocess.run(["dpkg-deb", "-f", package, "Package", "Architecture", "Pre-Depends"], check=True, timeout=60,
                            stdout=subprocess.PIPE, text=True).stdout
    contains(fields, "Package: vtpm", "libtpms0 (>= 0.9.2)", "libssl3", "libc6")
    lacks(fields, "libfuse3")
    subprocess.run(["dpkg-deb", "-x", package, "unpacked"], check=True, timeout=60)
    with open("unpacked/usr/bin/vtpm", "rb") as file:
        program = file.read()
    for path in (b"/etc/vtpm/vtpm.conf", b"/var/lib/vtpm", b"/run/vtpm", b"/usr/libexec/vtpm"):
        true(path + b"\0" in program, "vtpm does not know %r" % path)
    lacks(program, b"/usr/local/etc", b"/usr/local/var", b"/usr/local/libexec", os.fsencode(os.path.dirname(package)))
    for path in ("libexec/vtpm/vtpm-provider-native", "libexec/vtpm/vtpm-ca-local", "share/man/man1/vtpm.1.gz",
                 "share/man/man8/swtpm.8.gz", "share/man/man8/swtpm_setup.8.gz", "share/man/man8/swtpm_ioctl.8.gz",
                 "share/man/man8/vtpm@.service.8.gz", "share/man/man8/vtpm@.socket.8.gz",
                 "lib/systemd/system/vtpm@.service", "lib/systemd/system/vtpm@.socket", "share/doc/vtpm/copyright"):
        true(os.path.isfile("unpacked/usr/" + path), path + " is missing")
    for name in NAMES:
        same(os.path.realpath("unpacked/usr/libexec/vtpm/swtpm-compat/" + name),
             os.path.realpath("unpacked/usr/bin/" + name))


def test_plain_host(_place):
    """A host without swtpm: installed, used by libvirt's user, removed, purged; the keys stay and it is said"""
    need_root()
    package = build()
    with copy_of_host() as host:
        without_swtpm(host)
        shutil.rmtree(host.path("/var/lib/libvirt"), ignore_errors=True)
        dpkg(host, "-i", package)
        same(sorted(diverted(host)), sorted(["/usr/bin/" + name for name in NAMES] + [PROFILE]
                                            + ["/usr/share/man/man8/%s.8.gz" % name for name in NAMES]))
        for name in NAMES:
            true(is_ours(host, "/usr/bin/" + name), name + " is not ours")
        same(facts(host, "/var/lib/vtpm"), (0o2770, "root", "vtpm"))
        same(facts(host, "/run/vtpm"), (0o2770, "root", "vtpm"))
        same(facts(host, "/var/lib/vtpm-vms"), (0o700, "vtpm", "vtpm"))
        contains(said(host.run("id", "-nG", "tss")), "vtpm")
        said(host.run("vtpm", "list"))  # the folders of vtpm.conf are all there
        lacks(said(host.run("dpkg", "--audit")), "vtpm")
        same(said(host.run("dpkg", "--verify", "vtpm")), "")
        folder = STATES + "/" + VM + "/tpm2"
        setup(host, folder, VM)
        answers(host, folder)
        contains(said(host.run("vtpm", "inspect", folder + "/tpm2-00.permall")), VM)
        true(os.listdir(host.path("/var/lib/vtpm/native")), "the host's provider is not in the system's place")
        shutil.rmtree(host.path(STATES))
        # who is not in group vtpm keeps keys of his own, and hears where
        contains(said(host.run("sh", "-c", "exec env -C / HOME=/tmp/his setpriv --reuid=nobody --clear-groups sh -c "
                                           "'mkdir -p /tmp/his/vm && swtpm_setup --tpm2 --tpm-state /tmp/his/vm' 2>&1")),
                 "/tmp/his/.local/share/vtpm, for this user alone", "/var/lib/vtpm")
        dpkg(host, "-r", "vtpm")
        same(diverted(host), {})
        for path in ["/usr/bin/" + name for name in (*NAMES, "vtpm")] + [PROFILE]:
            true(not os.path.lexists(host.path(path)), path + " is still there")
        true(os.path.exists(host.path("/etc/vtpm/vtpm.conf")), "a removal took the configuration")
        dpkg(host, "-i", package)
        for path in ("/usr/bin/swtpm", PROFILE):
            true(os.path.exists(host.path(path)), path + " did not come again")
        dpkg(host, "-r", "vtpm")
        contains(dpkg(host, "-P", "vtpm"), "/var/lib/vtpm is kept")
        true(os.listdir(host.path("/var/lib/vtpm/native")), "the keys are gone")
        for path in ("/etc/vtpm", "/etc/apparmor.d/local/usr.bin.swtpm"):
            true(not os.path.exists(host.path(path)), "a purge left " + path)


def test_beside_swtpm(_place):
    """A host with swtpm: its programs step aside, an upgrade of either keeps that, and a removal gives them back"""
    need_root()
    need_swtpm()
    package = build()
    upgrade = repack(package, "upgrade", with_version("0.1.0-2"))
    later = later_swtpm()
    with copy_of_host() as host:
        before = {name: open(host.path("/usr/bin/" + name), "rb").read() for name in NAMES}
        dpkg(host, "-i", package)
        diversions = diverted(host)
        for name in NAMES:
            true(is_ours(host, "/usr/bin/" + name), name + " is not ours")
            same(open(host.path("/usr/bin/%s.distrib" % name), "rb").read() == before[name], True, name)
        with open(host.path("/etc/vtpm/vtpm.conf"), "a", encoding="ascii") as file:
            file.write("init-wait=7\n")
        with open(host.path(PROFILE), "a", encoding="ascii") as file:
            file.write("# the site's\n")
        contains(dpkg(host, "-i", upgrade), PROFILE + ".dpkg-old")
        contains(read(host, PROFILE + ".dpkg-old"), "profile swtpm", "# the site's")
        lacks(read(host, PROFILE), "# the site's")
        contains(read(host, "/usr/share/doc/vtpm/README.md"), "version 0.1.0-2")
        contains(read(host, "/etc/vtpm/vtpm.conf"), "init-wait=7")
        same(diverted(host), diversions)
        dpkg(host, "-i", "--force-depends", "--force-breaks", later)
        true(is_ours(host, "/usr/bin/swtpm"), "an upgrade of swtpm took our program's place")
        contains(said(host.run("/usr/bin/swtpm.distrib")), "later swtpm")
        contains(read(host, PROFILE), "profile swtpm")
        contains(read(host, ASIDE), "later profile")
        lacks(dpkg(host, "-i", package), ".dpkg-old")  # a way back is an upgrade, too
        with open(host.path(PROFILE), "a", encoding="ascii") as file:
            file.write("# another change\n")
        dpkg(host, "-i", package)
        contains(read(host, PROFILE + ".dpkg-old.~1~"), "# the site's")
        contains(read(host, PROFILE + ".dpkg-old"), "# another change")
        same(diverted(host), diversions)
        dpkg(host, "-P", "vtpm")
        same(diverted(host), {})
        contains(said(host.run("/usr/bin/swtpm")), "later swtpm")
        same(read(host, PROFILE), "# later profile\n")
        for name in NAMES[1:]:
            same(open(host.path("/usr/bin/" + name), "rb").read() == before[name], True, name)
        lacks("\n".join(os.listdir(host.path("/usr/bin"))), ".distrib")
        lacks("\n".join(os.listdir(host.path("/etc/apparmor.d"))), ".dpkg-bak")


def test_remove_refused(_place):
    """With states of ours it is upgraded, and not removed; the command that it prints turns them back for swtpm"""
    need_root()
    need_swtpm()
    package = build()
    upgrade = repack(package, "upgrade", with_version("0.1.0-2"))
    with copy_of_host() as host:
        dpkg(host, "-i", package)
        folders = [STATES + "/" + vm + "/tpm2" for vm in (VM, OTHER_VM)]
        for folder, vm in zip(folders, (VM, OTHER_VM)):
            setup(host, folder, vm)
        with open(host.path(folders[1] + "/tpm2-00.permall"), "r+b") as file:
            file.write(bytes(4096))  # the first copy of its header is lost
        said(host.run("vtpm", "create", "/var/lib/vtpm-vms/web.vtpm"))
        dpkg(host, "-i", upgrade)
        words = dpkg(host, "-r", "vtpm", status=1)
        contains(words, "there are 3 TPMs", "/var/lib/vtpm-vms/web.vtpm")
        commands = re.findall(r"^  (vtpm export --swtpm .*)$", words, re.M)
        same(commands, ["vtpm export --swtpm --plaintext --all '%s'" % STATES])
        contains(said(host.run("dpkg-query", "-W", "-f", "${Status}", "vtpm")), "installed")
        answers(host, folders[0])
        with open(host.path(folders[1] + "/tpm2-00.permall"), "rb") as file:
            same(file.read(8), bytes(8), "its header is still lost")
        said(host.run("sh", "-c", commands[0]))
        words = dpkg(host, "-r", "vtpm", status=1)
        contains(words, "there are 1 TPMs", "/var/lib/vtpm-vms/web.vtpm")
        lacks(words, "--all")
        os.rename(host.path("/var/lib/vtpm-vms/web.vtpm"), host.path("/root/web.vtpm"))
        dpkg(host, "-r", "vtpm")
        for folder in folders:
            true(os.path.exists(host.path(folder + "/tpm2-00.permall.vtpm")), "ours was not kept")
            answers(host, folder)
        true(not is_ours(host, "/usr/bin/swtpm"), "what answered was ours")


def test_configured_folders(_place):
    """States in a folder that vtpm.conf names hold a removal up, whatever names are in it; other files, and what was set
    aside, do not"""
    need_root()
    package = build()
    with copy_of_host() as host:
        dpkg(host, "-i", package)
        edit(host.path("/etc/vtpm/vtpm.conf"), "state-dirs=", "state-dirs=/srv/bob's vms/;/srv/a\\;b;")
        for folder in ("/srv/bob's vms/x", "/srv/a;b/line\nbreak", "/root/elsewhere"):
            os.makedirs(host.path(folder))
            said(host.run("vtpm", "create", folder + "/tpm2-00.permall"))
        os.symlink("/root/elsewhere/tpm2-00.permall", host.path("/var/lib/vtpm-vms/web.vtpm"))
        words = dpkg(host, "-r", "vtpm", status=1)
        contains(words, "there are 3 TPMs", "  /var/lib/vtpm-vms/web.vtpm\n")
        os.unlink(host.path("/var/lib/vtpm-vms/web.vtpm"))
        commands = re.findall(r"^  (vtpm export --swtpm .*)$", words, re.M)
        same(len(commands), 2, words)
        for command in commands:
            said(host.run("sh", "-c", command))
        for folder in ("/srv/bob's vms/x", "/srv/a;b/line\nbreak"):
            true(os.path.exists(host.path(folder + "/tpm2-00.permall.vtpm")), "it is turned back")
        with open(host.path("/srv/bob's vms/x/disk"), "wb") as file:
            file.write(bytes(1 << 20))
        os.symlink("/etc/passwd", host.path("/srv/bob's vms/x/small"))
        contains(dpkg(host, "-r", "vtpm", status=1), "there are 1 TPMs", "/root/elsewhere/tpm2-00.permall")
        os.rename(host.path("/root/elsewhere/tpm2-00.permall"), host.path("/root/elsewhere/kept"))
        dpkg(host, "-r", "vtpm")


def test_other_places(_place):
    """A state in no folder that vtpm.conf names is known from the audit log: nobody else would leave it alone"""
    need_root()
    package = build()
    with copy_of_host() as host:
        dpkg(host, "-i", package)
        for folder in ("/srv/images", "/srv/one", "/srv/gone"):
            os.makedirs(host.path(folder))
        said(host.run("swtpm_setup", "--tpm2", "--tpmstate", "file:///srv/images/vm-100-disk-0.raw", "--createek",
                      "--not-overwrite"))
        said(host.run("vtpm", "create", "/srv/one/tpm2-00.permall"))
        said(host.run("vtpm", "create", "/srv/gone/vm.vtpm"))
        said(host.run("vtpm", "create", '/srv/gone/"\\'))
        os.unlink(host.path("/srv/gone/vm.vtpm"))
        log = host.path("/var/lib/vtpm/audit.log")
        rotated(log, log + ".2.gz")
        for damage in (b"", b"no gzip"):
            with open(log + ".1.gz", "wb") as file:
                file.write(damage)
            contains(dpkg(host, "-r", "vtpm", status=1), "/var/lib/vtpm/audit.log.1.gz cannot be looked through", "there are 3 TPMs")
        os.unlink(log + ".1.gz")
        edit(host.path("/etc/vtpm/vtpm.conf"), "#audit=journal", "audit=journal")
        words = dpkg(host, "-r", "vtpm", status=1)
        contains(words, "there are 3 TPMs", "  /srv/images/vm-100-disk-0.raw\n", '  /srv/gone/"\\\n')
        os.unlink(host.path('/srv/gone/"\\'))
        commands = re.findall(r"^  (vtpm export --swtpm .*)$", words, re.M)
        same(commands, ["vtpm export --swtpm --plaintext --all '/srv/one'"])
        said(host.run("sh", "-c", commands[0]))
        os.rename(host.path("/srv/images/vm-100-disk-0.raw"), host.path("/srv/images/kept"))
        dpkg(host, "-r", "vtpm")


def rotated(log, name):
    with open(log, "rb") as file, gzip.open(name, "wb") as packed:
        packed.write(file.read())
    os.unlink(log)


def test_profile_fails(_place):
    """Where AppArmor does not take the profile no machine of libvirt's could start: dpkg says so until it does"""
    need_root()
    package = build()
    with copy_of_host() as host:
        for name, status in (("aa-enabled", 0), ("apparmor_parser", 1)):
            fake(host, name, status)
        contains(dpkg(host, "-i", package, status=1), "cannot be loaded", "dpkg --configure vtpm")
        true(os.path.isdir(host.path("/var/lib/vtpm-vms")), "the rest is done")
        fake(host, "apparmor_parser", 0)
        dpkg(host, "--configure", "vtpm")
        contains(said(host.run("dpkg-query", "-W", "-f", "${Status}", "vtpm")), "install ok installed")


def fake(host, name, status):
    path = host.path("/usr/local/sbin/" + name)
    with open(path, "w", encoding="utf-8") as file:
        file.write("#!/bin/sh\nexit %d\n" % status)
    os.chmod(path, 0o755)


def test_full_tmp(_place):
    """Where prerm has no room to write down what it finds, the package stays"""
    need_root()
    package = build()
    with copy_of_host() as host:
        dpkg(host, "-i", package)
        setup(host, STATES + "/" + VM + "/tpm2", VM)
        said(host.run("sh", "-c", "mount -t tmpfs -o size=64k tmp /tmp; head -c 64k /dev/zero >/tmp/fill"))
        dpkg(host, "-r", "vtpm", status=1)
        said(host.run("umount", "/tmp"))
        contains(dpkg(host, "-r", "vtpm", status=1), "there are 1 TPMs")


def test_unseen_folders(_place):
    """What state-dirs names and cannot be looked through, as a disk that is not mounted, holds a removal up, too"""
    need_root()
    package = build()
    with copy_of_host() as host:
        dpkg(host, "-i", package)
        edit(host.path("/etc/vtpm/vtpm.conf"), "state-dirs=", "state-dirs=/srv/vms;")
        contains(dpkg(host, "-r", "vtpm", status=1), "/srv/vms cannot be looked through", "mount")
        os.makedirs(host.path("/srv/vms/theirs"))
        os.chown(host.path("/srv/vms/theirs"), 4711, 4711)
        os.makedirs(host.path("/root/disk/vm"))
        for target, link, told in (("/root/disk", "/srv/vms/other", True), (".", "/srv/vms/loop", False),
                                   ("/var/lib/vtpm-vms", "/srv/vms/known", False)):
            os.symlink(target, host.path(link))
            if told:
                contains(dpkg(host, "-r", "vtpm", status=1), "/root/disk cannot be looked through", "where a link leads there")
                os.unlink(host.path(link))
        os.chmod(host.path("/srv/vms/theirs"), 0o700)
        with open(host.path("/etc/fstab"), "w", encoding="utf-8") as file:
            file.write("#/dev/sdz0 /srv/vms ext4\n/dev/sdz2 / ext4 defaults 0 1\nproc /proc proc defaults 0 0\n/dev/sdz1\t/srv/vms/a\\040b/ ext4")
        lacks(dpkg(host, "-r", "vtpm", status=1), "/srv/vms cannot", "/proc")
        with open(host.path("/etc/fstab"), "a", encoding="utf-8") as file:
            file.write("\n/dev/sdz3 /srv ext4 noauto\n")
        contains(dpkg(host, "-r", "vtpm", status=1), "/srv cannot be looked through", "/srv/vms/a b cannot", "/etc/fstab")
        os.unlink(host.path("/etc/fstab"))
        os.symlink("/srv/no-disk/vm", host.path("/srv/vms/gone"))
        contains(dpkg(host, "-r", "vtpm", status=1), "/srv/vms/gone cannot be looked through", "remove the link")
        os.unlink(host.path("/srv/vms/gone"))
        os.rmdir(host.path("/var/lib/vtpm-vms"))
        os.symlink("/root/no-disk", host.path("/var/lib/vtpm-vms"))
        contains(dpkg(host, "-r", "vtpm", status=1), "/var/lib/vtpm-vms cannot be looked through")
        os.unlink(host.path("/var/lib/vtpm-vms"))
        os.mkdir(host.path("/var/lib/vtpm-vms"))
        done = host.run("setpriv", "--bounding-set=-dac_override,-dac_read_search", "/var/lib/dpkg/info/vtpm.prerm", "remove")
        contains(said(done, 1), "/srv/vms cannot be looked through")
        dpkg(host, "-r", "vtpm")


def test_configured_device(_place):
    """So does a state on a block device that it names"""
    need_root()
    package = build()
    with copy_of_host() as host, open("volume", "wb") as volume:
        volume.truncate(4 << 20)
        dpkg(host, "-i", package)
        edit(host.path("/etc/vtpm/vtpm.conf"), "state-dirs=", "state-dirs=/srv/volume;")
        with loop_device(os.path.abspath("volume")) as device:
            os.mknod(host.path("/srv/volume"), stat.S_IFBLK | 0o600, os.stat(device).st_rdev)
            said(host.run("vtpm", "create", "/srv/volume"))
            contains(dpkg(host, "-r", "vtpm", status=1), "/srv/volume", "taken out of state-dirs")
            edit(host.path("/etc/vtpm/vtpm.conf"), "state-dirs=/srv/volume;", "state-dirs=/srv/group/;")
            os.mkdir(host.path("/srv/group"))
            os.symlink("../volume", host.path("/srv/group/vm"))
            contains(dpkg(host, "-r", "vtpm", status=1), "/srv/group/vm", "taken out of state-dirs")
            os.mknod(host.path("/srv/group/node"), stat.S_IFBLK | 0o600, os.stat(device).st_rdev)
            contains(said(host.run("vtpm", "rekey", "--all", "/srv/group"), 4), "/srv/group/vm: a symbolic link",
                     "/srv/group/node: a block device")
            lacks(said(host.run("vtpm", "rekey", "--all", "/srv/group", "/srv/group/node"), 4), "node: a block device")
            os.unlink(host.path("/srv/group/node"))
            edit(host.path("/etc/vtpm/vtpm.conf"), "state-dirs=/srv/group/;", "state-dirs=")
            contains(dpkg(host, "-r", "vtpm"), "/srv/volume has a TPM that nothing else can open")


def test_between(_place):
    """A VM that starts when the package is unpacked and not configured has its keys with the host's; a package in that
    state is removed by dpkg without a question, and says what is left"""
    need_root()
    package = build()
    with copy_of_host() as host:
        folder = STATES + "/" + VM + "/tpm2"
        dpkg(host, "--unpack", package)
        setup(host, folder, VM)
        answers(host, folder)
        dpkg(host, "--configure", "vtpm")
        answers(host, folder)
        same(said(host.run("vtpm", "check", folder + "/tpm2-00.permall")).count("key slot 1: provider native"), 1)
        dpkg(host, "--unpack", package)
        contains(dpkg(host, "-r", "vtpm"), "TPMs here that nothing else can open", folder, "Install it again")
        dpkg(host, "-i", package)
        answers(host, folder)


def test_key_folder_of_others(_place):
    """A /var/lib/vtpm that is older than the package, root's alone or from a backup where its group had another number,
    becomes the group's, with a word; a site's own group that libvirt's user is in stays"""
    need_root()
    package = build()
    with copy_of_host() as host:
        folder = STATES + "/" + VM + "/tpm2"
        dpkg(host, "-i", package)
        setup(host, folder, VM)
        said(host.run("vtpm", "ca", "create", "own"))
        before = sorted(os.listdir(host.path("/var/lib/vtpm/native")))
        said(host.run("sh", "-c", "groupadd monitoring; groupadd pki; chgrp pki /var/lib/vtpm/ca/own.key; "
                                  "chmod 640 /var/lib/vtpm/ca/own.key"))
        for group, mode in (("root", "go="), ("monitoring", "o=")):
            said(host.run("sh", "-c", "chgrp -R %s /var/lib/vtpm; chmod -R %s /var/lib/vtpm; chgrp pki /var/lib/vtpm/ca/own.key; "
                                      "chmod 640 /var/lib/vtpm/ca/own.key" % (group, mode)))
            contains(dpkg(host, "-i", package), "group " + group, "group vtpm's now")
            answers(host, folder)
            same(facts(host, "/var/lib/vtpm"), (0o2770, "root", "vtpm"))
            same(facts(host, "/var/lib/vtpm/ca/own.key"), (0o640, "root", "pki"))
            same(sorted(os.listdir(host.path("/var/lib/vtpm/native"))), before)
        said(host.run("sh", "-c", "gpasswd --add tss monitoring; chgrp -R monitoring /var/lib/vtpm"))
        lacks(dpkg(host, "-i", package), "group vtpm's now")
        same(facts(host, "/var/lib/vtpm"), (0o2770, "root", "monitoring"))
        said(host.run("sh", "-c", "mkdir -p /etc/libvirt; echo 'swtpm_user = \"root\"' >/etc/libvirt/qemu.conf; "
                                  "chown root:root /var/lib/vtpm; chmod 700 /var/lib/vtpm"))
        lacks(dpkg(host, "-i", package), "group vtpm's now")
        same(facts(host, "/var/lib/vtpm")[2], "root")


def test_killed_install(_place):
    """dpkg killed, as by a power cut, when the names are diverted and ours are not there: swtpm answers, and it can be
    installed and removed after"""
    need_root()
    need_swtpm()

    def kill(folder):
        with open(folder + "/DEBIAN/preinst", "a", encoding="ascii") as file:
            file.write("kill -9 $PPID $$\n")
    package, killed = build(), repack(build(), "killed", kill)
    with copy_of_host() as host:
        before = {name: open(host.path("/usr/bin/" + name), "rb").read() for name in NAMES}
        true(host.run("dpkg", "-i", killed).returncode != 0, "it was killed")
        true("/usr/bin/swtpm" in diverted(host), "it was killed too early")
        for name in NAMES:
            true(open(host.path("/usr/bin/" + name), "rb").read() == before[name], name)
        dpkg(host, "-i", package)
        true(is_ours(host, "/usr/bin/swtpm"), "ours is not there")
        dpkg(host, "-r", "vtpm")
        same(diverted(host), {})
        for name in NAMES:
            true(open(host.path("/usr/bin/" + name), "rb").read() == before[name], name)
        lacks("\n".join(os.listdir(host.path("/usr/bin"))), ".distrib")


def test_killed_removal(_place):
    """dpkg killed when ours are gone and swtpm's not back: as docs/libvirt.md says, one more removal brings them back"""
    need_root()
    need_swtpm()
    with copy_of_host() as host:
        before = {name: open(host.path("/usr/bin/" + name), "rb").read() for name in NAMES}
        dpkg(host, "-i", build())
        script = host.path("/var/lib/dpkg/info/vtpm.postrm")
        with open(script, encoding="utf-8") as file:
            whole = file.read()
        with open(script, "w", encoding="utf-8") as file:
            file.write("#!/bin/sh\nkill -9 $PPID $$\n")
        true(host.run("dpkg", "-r", "vtpm").returncode != 0, "it was killed")
        true(not os.path.exists(host.path("/usr/bin/swtpm")), "it was killed too early, or too late")
        with open(script, "w", encoding="utf-8") as file:
            file.write(whole)
        dpkg(host, "--configure", "-a")
        true(not os.path.exists(host.path("/usr/bin/swtpm")), "docs/libvirt.md says that this does not help")
        dpkg(host, "-r", "vtpm")
        same(diverted(host), {})
        for name in NAMES:
            true(open(host.path("/usr/bin/" + name), "rb").read() == before[name], name)


def test_failed_install(_place):
    """An installation that fails leaves swtpm's programs where they were"""
    need_root()
    need_swtpm()

    def clash(folder):
        shutil.copy("/usr/bin/env", folder + "/usr/bin/env")
    package = repack(build(), "clash", clash)
    with copy_of_host() as host:
        contains(dpkg(host, "-i", package, status=1), "trying to overwrite '/usr/bin/env'")
        same(diverted(host), {})
        for name in NAMES:
            true(os.path.exists(host.path("/usr/bin/" + name)), name + " is gone")
            true(not is_ours(host, "/usr/bin/" + name), name + " is ours")


def test_own_swtpm_user(_place):
    """The user of libvirt's qemu.conf is put into group vtpm, however he is named there; one that there is not is passed
    over"""
    need_root()
    package = build()
    with copy_of_host() as host:
        os.makedirs(host.path("/etc/libvirt"), exist_ok=True)
        for number, form in enumerate(('"emulators%d"', "'emulators%d'", '"47%02d"', '"+47%02d"')):
            said(host.run("useradd", "--system", "--uid", "47%02d" % number, "emulators%d" % number))
            with open(host.path("/etc/libvirt/qemu.conf"), "w", encoding="ascii") as file:
                file.write('#swtpm_user = "tss"\nswtpm_user = %s\n' % (form % number))
            dpkg(host, "-i", package)
            contains(said(host.run("id", "-nG", "emulators%d" % number)), "vtpm")
        with open(host.path("/etc/libvirt/qemu.conf"), "w", encoding="ascii") as file:
            file.write('swtpm_user = "nobodys"\n')
        dpkg(host, "-i", package)


if __name__ == "__main__":
    main(globals())
