# SPDX-License-Identifier: BSD-3-Clause
"""The answer file for Windows Setup and the agent, as a small CD: Setup looks at the root of each removable medium."""
import os
import secrets
import string
import subprocess

from tpms import GuestError

HERE = os.path.dirname(os.path.realpath(__file__))
COMPUTER = "VTPM-TEST"
# Microsoft publishes these for machines that ask a KMS server ("KMS client activation and product keys"). Here they choose
# the edition, so that Setup does not ask for a key, and activate nothing. Evaluation media want none.
PRODUCT_KEYS = {"Professional": "W269N-WFGWX-YVC9B-4J6C9-T83GX", "Enterprise": "NPPR9-FWDCX-D2C8J-H872K-2YT43",
                "Education": "NW6C2-QMPVW-D7KKK-3GKT6-VCFB2"}
KEY = """        <ProductKey>
          <Key>{key}</Key>
          <WillShowUI>OnError</WillShowUI>
        </ProductKey>"""
# Drive letters are given by what is plugged in; Setup passes over a path that is not there.
DRIVERS = """    <component name="Microsoft-Windows-PnpCustomizationsWinPE" processorArchitecture="amd64" \
publicKeyToken="31bf3856ad364e35" language="neutral" versionScope="nonSxS">
      <DriverPaths>
{paths}
      </DriverPaths>
    </component>"""
PATH = """        <PathAndCredentials wcm:action="add" wcm:keyValue="{number}">
          <Path>{letter}:\\viostor\\w11\\amd64</Path>
        </PathAndCredentials>"""


def password():
    """Of the guest's only user; it is in nothing but the answer file, whose machine is gone afterwards."""
    letters = "".join(secrets.choice(string.ascii_letters + string.digits) for _ in range(20))
    return letters + "aA1!"  # Windows wants three of four kinds


def text(image, virtio):
    """The answer file for IMAGE (see iso.py)."""
    with open(os.path.join(HERE, "autounattend.xml"), encoding="utf-8") as file:
        answers = file.read()
    paths = "\n".join(PATH.format(number=number, letter=letter) for number, letter in enumerate("DEFGH", 1))
    key = PRODUCT_KEYS.get(image.edition)
    words = {"LANGUAGE": image.language, "INDEX": image.index or "1", "COMPUTER": COMPUTER, "PASSWORD": password(),
             "DRIVERS": DRIVERS.format(paths=paths) if virtio else "", "PRODUCT_KEY": KEY.format(key=key) if key else ""}
    for word, value in words.items():
        answers = answers.replace(f"@{word}@", value)
    return "".join(line for line in answers.splitlines(keepends=True) if line.strip())


def _archive(tree):
    """The same files as a cpio archive beside them; see free_medium.py."""
    names = "".join(name + "\n" for name in sorted(os.listdir(tree)))
    with open(os.path.join(tree, "answers.cpio"), "wb") as file:
        subprocess.run(["cpio", "--quiet", "-o", "-H", "newc"], cwd=tree, input=names.encode(), stdout=file, timeout=60, check=True)


def make(folder, image, virtio):
    """The CD; gives its path."""
    tree, path = os.path.join(folder, "answers"), os.path.join(folder, "answers.iso")
    os.mkdir(tree, 0o700)
    with open(os.path.join(tree, "autounattend.xml"), "w", encoding="utf-8") as file:
        file.write(text(image, virtio))
    with open(os.path.join(HERE, "agent.ps1"), encoding="utf-8") as source, \
            open(os.path.join(tree, "agent.ps1"), "w", encoding="utf-8", newline="\r\n") as file:
        file.write(source.read())
    if image.kind == "free":
        _archive(tree)
    done = subprocess.run(["xorriso", "-as", "mkisofs", "-quiet", "-J", "-R", "-V", "VTPM_ANSWERS", "-o", path, tree],
                          stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120, check=False)
    if done.returncode != 0:
        raise GuestError("xorriso: " + done.stderr.strip())
    return path
