# SPDX-License-Identifier: BSD-3-Clause
"""The TPMs whose state blobs bench/blob-run and bench/snapshot-run compare, all of one identity, certificates and all:

  vtpm             as it is: the state and the blobs are sealed
  swtpm-encrypted  as libvirt starts it for a domain with a secret: the state and the blobs are encrypted
  swtpm            in the clear
  floor            what any program does that gives the same bytes out sealed (bench/blob_floor.c)

Environment: VTPM (default ./vtpm)."""
import os
import shutil
import subprocess

VTPM = os.path.abspath(os.environ.get("VTPM", "./vtpm"))
THEIRS = {"swtpm-encrypted": "swtpm encrypted", "swtpm": "swtpm in the clear"}
AT_MOST = 0.4


class Server:
    """For TpmProcess of qemu/tpms.py, too."""

    def __init__(self, name, environment, words, socket_kind):
        self.name, self.environment, self.words, self.socket_kind = name, environment, words, socket_kind

    def command(self, ctrl, _log=None, _incoming=False):
        """CTRL: the path of a socket to be made. Without, it is the listening descriptor 3."""
        if not self.socket_kind:
            return [*self.words, *([ctrl] if ctrl else [])]
        return [*self.words, "--ctrl", self.socket_kind[1] + ctrl if ctrl else self.socket_kind[0]]


def swtpm(folder, name, run, environment):
    state, secret = folder / name, folder / "secret"
    state.mkdir()
    secret.write_text("a passphrase of some length")
    key = "pwdfile=%s,mode=aes-256-cbc" % secret
    how = ["--key", key] if name == "swtpm-encrypted" else []
    run("export", "--swtpm", *(how or ["--plaintext"]), folder / "state.vtpm", state)
    migration = ["--migration-key", key] if how else []
    return Server(name, environment, ["swtpm", "socket", "--tpm2", "--tpmstate", "dir=%s,mode=0600" % state, *how, *migration],
                  ("type=unixio,fd=3", "type=unixio,path="))


def floor(folder):
    """Beside the programs under test, as bench/client is. It reads a copy: swtpm writes to its own."""
    state = folder / "floor.permall"
    shutil.copy(folder / "swtpm" / "tpm2-00.permall", state)
    return Server("floor", dict(os.environ), [os.path.abspath("bench/blob_floor"), state], None)


def make(folder):
    """The servers by name, their states in FOLDER."""
    config = folder / "vtpm.conf"
    config.write_text("")
    environment = dict(os.environ, VTPM_DATA_DIR=str(folder / "data"), VTPM_LIBEXEC_DIR=os.path.dirname(VTPM))

    def run(*words):
        subprocess.run([VTPM, *words, "--config", config], env=environment, check=True, stdin=subprocess.DEVNULL,
                       stdout=subprocess.DEVNULL)

    run("create", folder / "state.vtpm")
    ours = Server("vtpm", environment, [VTPM, "run", folder / "state.vtpm", "--manage", "none", "--config", config],
                  ("fd:3", "unix:"))
    theirs = {name: swtpm(folder, name, run, environment) for name in THEIRS}
    return {"vtpm": ours, **theirs, "floor": floor(folder)}


def report(title, means, limit):
    """MEANS: microseconds by server's name."""
    parts = []
    for server, what in THEIRS.items():
        ratio = means["vtpm"] / means[server]
        met = "" if limit is None else " (at most %.1f: %s)" % (limit, "met" if ratio <= limit else "not met")
        parts.append("%s %.0f us, ratio %.2f%s" % (what, means[server], ratio, met))
    parts.append("floor %.0f us, itself %s" % (means["floor"], " and ".join(
        "%.2f of %s" % (means["floor"] / means[server], what) for server, what in THEIRS.items())))
    print("state blobs, %s: vtpm %.0f us; %s" % (title, means["vtpm"], "; ".join(parts)), flush=True)
