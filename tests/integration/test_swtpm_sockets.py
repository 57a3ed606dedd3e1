#!/usr/bin/python3
# SPDX-License-Identifier: BSD-3-Clause
"""Where swtpm socket listens, and whose its sockets are; each time beside Debian's."""
import os
import socket
import stat
import struct
import sys

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.realpath(__file__)))
from device import SHUTDOWN, Control, Skip, main, need_root, read_file, same  # noqa: E402
from swtpm import SWTPM, Served, data_at, debian, folder_of, free_port  # noqa: E402
from tpm_bytes import startup  # noqa: E402


def owned_by(path):
    info = os.stat(path)
    return stat.S_IMODE(info.st_mode), info.st_uid, info.st_gid


def unix_sockets(place, ctrl, server):
    """Mode, user and group of both sockets with these words, made by either program under a strict umask."""
    for number, program in enumerate((debian(), SWTPM)):
        names = ["%s-%d" % (name, number) for name in "cd"]
        served = Served(place, folder_of("u-%d" % number), "--ctrl", "type=unixio,path=%s%s" % (names[0], ctrl),
                        "--server", "type=unixio,path=%s%s" % (names[1], server), ctrl=None, program=program,
                        preexec=lambda: os.umask(0o077))
        served.ctrl = names[0]
        data_at(names[1]).close()
        data_at(names[0]).close()
        yield [owned_by(name) for name in names]
        served.shutdown()


def test_mode(place):
    """a Unix socket that nothing is said of is for user and group, whatever the umask: 0770"""
    ours = (0o770, os.geteuid(), os.getegid())
    for found in unix_sockets(place, "", ""):
        same(found, [ours, ours])


def test_owner(place):
    """uid= and gid=, each alone and both, of either Unix socket"""
    need_root()
    for ctrl, server, wanted in (
            (",uid=65534,gid=65533", ",uid=65532", [(0o770, 65534, 65533), (0o770, 65532, 0)]),
            (",gid=65533,mode=0660", ",uid=65531,gid=65530", [(0o660, 0, 65533), (0o770, 65531, 65530)])):
        for found in unix_sockets(place, ctrl, server):
            same(found, wanted, ctrl)


def listening(port):
    """The addresses that this port is listened at."""
    found = set()
    for name, family in (("tcp", socket.AF_INET), ("tcp6", socket.AF_INET6)):
        for line in read_file("/proc/net/" + name).decode().splitlines()[1:]:
            address, at, state = *line.split()[1].split(":"), line.split()[3]
            if (int(at, 16), state) == (port, "0A"):  # words in the order of this host's bytes
                parts = [int(address[i:i + 8], 16) for i in range(0, len(address), 8)]
                found.add(socket.inet_ntop(family, struct.pack("=%dI" % len(parts), *parts)))
    return found


def listens_at(place, host, words):
    for number, program in enumerate((debian(), SWTPM)):
        ports = free_port(), free_port()
        served = Served(place, folder_of("tcp-%d" % number), "--ctrl", "type=tcp,port=%d%s" % (ports[0], words),
                        "--server", "type=tcp,port=%d%s" % (ports[1], words), ctrl=None, program=program)
        data = data_at((host, ports[1]))
        data_at((host, ports[0])).close()
        same([listening(port) for port in ports], [{host}, {host}])
        with Control((host, ports[0])) as control:
            same(control.init(), 0, served.errors())
            data.good(startup())
            same(control.result(SHUTDOWN), 0)
        served.ends(0)


def test_loopback(place):
    """without bindaddr= control and data channel are listened for at 127.0.0.1 and nowhere else"""
    listens_at(place, "127.0.0.1", "")


def test_address(place):
    """bindaddr=, of IPv4 and IPv6: there, and there only"""
    listens_at(place, "127.0.0.2", ",bindaddr=127.0.0.2")
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        raise Skip("no IPv6") from None
    listens_at(place, "::1", ",bindaddr=::1")


if __name__ == "__main__":
    main(globals())
