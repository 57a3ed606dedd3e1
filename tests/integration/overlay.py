# SPDX-License-Identifier: BSD-3-Clause
"""A copy of this host that is thrown away: its files under an overlay in memory, its processes by themselves.

What is installed, started and written inside is gone with it; the host sees none of it, but for /dev and /sys, which
are the host's own. Needs root.

    with Overlay() as host:
        host.run("dpkg", "-i", "/some/where.deb")
        daemon = host.start("/usr/sbin/libvirtd")
        print(open(host.path("/etc/passwd")).read())    # the inside's file, seen from outside
"""
import ctypes
import os
import shutil
import signal
import subprocess
import tempfile

LIMIT = 120  # seconds that one command may take
DISKS = ("ext2", "ext3", "ext4", "xfs", "btrfs", "f2fs", "zfs", "overlay", "tmpfs")
HOST_OWN = ("/dev", "/proc", "/sys")
ENVIRONMENT = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root", "LC_ALL": "C",
               "DEBIAN_FRONTEND": "noninteractive"}

# The first process of the inside. $1: a folder, its other arguments: where file systems are mounted, / first.
# A layer for each: an overlay of / shows empty folders where others are mounted. That it ignores SIGCHLD lets the
# kernel reap who is orphaned.
INSIDE = r"""
set -eu
folder=$1
shift
mount -t tmpfs -o mode=0755 overlay "$folder"
mkdir "$folder/root"
n=0
for place; do
  n=$((n + 1))
  target=$folder/root${place%/}
  if [ -d "$place" ]; then
    mkdir -p "$folder/$n" "$folder/$n.work"
    chown --reference="$place" "$folder/$n"
    chmod --reference="$place" "$folder/$n"
    mount -t overlay -o "lowerdir=$place,upperdir=$folder/$n,workdir=$folder/$n.work" overlay "$target"
  else
    mount --bind "$place" "$target"
    mount -o remount,bind,ro "$target"
  fi
done
mount --rbind /dev "$folder/root/dev"
mount --rbind /sys "$folder/root/sys"
mount -t proc proc "$folder/root/proc"
# who answered there would be the host's
rm -rf "$folder/root/run/systemd" "$folder/root/run/dbus"
cd "$folder/root"
exec chroot . sh -c 'cd / && echo ready && exec env --ignore-signal=CHLD sleep infinity'
"""


class Unavailable(Exception):
    """This host lets nobody make one; the text says why."""


def _mount_points():
    """Of the file systems that are copied, the outer ones first; of one that is mounted over another, the upper."""
    found = []
    with open("/proc/self/mountinfo", encoding="utf-8") as file:
        for line in file:
            left, right = line.split(" - ", 1)
            place = left.split()[4].encode().decode("unicode_escape")
            hidden = any(place == own or place.startswith(own + "/") for own in HOST_OWN)
            if right.split()[0] in DISKS and not hidden and place not in found and os.path.exists(place):
                found.append(place)
    return sorted(found, key=lambda place: (place.count("/") if place != "/" else 0, place))


class Overlay:
    """Use it in a with statement, which ends all of it whatever happens."""

    def __init__(self):
        self.holder = self.folder = self.pid = None

    def __enter__(self):
        if os.geteuid() != 0:
            raise Unavailable("needs root")
        self.folder = tempfile.mkdtemp(prefix="vtpm-overlay.")
        # kill-child: the first process of a process namespace takes all others with it
        self.holder = subprocess.Popen(["unshare", "--mount", "--propagation", "private", "--uts", "--ipc", "--pid",
                                        "--fork", "--kill-child", "sh", "-c", INSIDE, "inside", self.folder,
                                        *_mount_points()], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                       stderr=subprocess.PIPE, env=ENVIRONMENT, preexec_fn=_die_with_parent)
        if self.holder.stdout.readline() != b"ready\n":
            self.holder.kill()
            said = self.holder.communicate()[1].decode("utf-8", "replace").strip()
            self.__exit__()
            raise Unavailable(said or "no overlay could be mounted")
        with open("/proc/%d/task/%d/children" % (self.holder.pid, self.holder.pid), encoding="ascii") as file:
            self.pid = int(file.read().split()[0])
        return self

    def __exit__(self, *error):
        self.holder.kill()
        self.holder.wait()
        for pipe in (self.holder.stdout, self.holder.stderr):
            pipe.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _command(self, command):
        return ["nsenter", "--target=%d" % self.pid, "--mount", "--uts", "--ipc", "--pid", "--root", "--wd", "--",
                *command]

    def run(self, *command, limit=LIMIT, **options):
        """Runs it to its end inside. Gives what subprocess.run() does; output is captured as text."""
        return subprocess.run(self._command(command), **{
            "stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True,
            "env": ENVIRONMENT, "timeout": limit, "check": False, **options})

    def start(self, *command, **options):
        """Starts it inside and leaves it running. Gives a Popen, of a process that waits for it and ends as it does."""
        return subprocess.Popen(self._command(command), **{
            "stdin": subprocess.DEVNULL, "env": ENVIRONMENT, "preexec_fn": _die_with_parent, **options})

    def path(self, inside):
        """By what name a process outside reaches the file INSIDE (not through absolute symbolic links)."""
        return "/proc/%d/root%s" % (self.pid, inside)


def _die_with_parent():
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
