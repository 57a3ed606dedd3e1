#!/bin/busybox sh
# SPDX-License-Identifier: BSD-3-Clause
#
# /init of the free medium. It stands in for Windows where there is none: first for Setup, which reads the answer file
# and writes the disk, then for the system on that disk, whose volume key is sealed to PCR 7 and 11. What it says on the
# serial line is what agent.ps1 says. GRUB has put the answer file into the initramfs.
#
# The volume: a tar archive 64 MiB into the disk.
#   sealed.pub, sealed.priv   the volume key as a TPM object under the storage root key
#   recovery                  the volume key, exclusive-or SHA-256 of the recovery password
#   digest                    SHA-256 of the volume key: tells whether it is the right one
# A toy: whoever holds the disk could try passwords as fast as he can hash. The guest has no other secret.

PATH=/bin
export PATH TPM2TOOLS_TCTI=device:/dev/tpmrm0
srk=0x81000001
at=64 # MiB

/bin/busybox --install -s /bin
mount -t devtmpfs dev /dev
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t securityfs security /sys/kernel/security
exec </dev/ttyS0 >/dev/ttyS0 2>&1
stty -echo
echo 0 >/proc/sys/kernel/printk
set -o pipefail
mkdir -p /volume
cd /volume || exit 1

screen ()
{
  echo "$*" >/dev/tty1
}

stop ()
{
  screen "$*"
  while :; do sleep 3600; done
}

option ()
{
  sed -n "s/.*\b$1=\([^ ]*\).*/\1/p" /proc/cmdline
}

# --- in place of Setup

answer ()
{
  sed -n "s|.*<$1>\(.*\)</$1>.*|\1|p" /autounattend.xml | head -n 1
}

install ()
{
  screen "Setup is reading the answer file"
  [ -s /autounattend.xml ] || stop "Setup: no answer file. Select the language to install:"
  ask=$(option ask)
  [ -z "$ask" ] || stop "Setup: select the $ask to install:"
  for word in 'Bypass[A-Za-z]*Check' LabConfig MoSetup; do
    ! grep -qi "$word" /autounattend.xml || stop "Setup: the answer file switches off a check ($word)"
  done
  [ "$(answer DiskID)" = 0 ] || stop "Setup: where do you want to install?"
  [ "$(answer WillWipeDisk)" = true ] || stop "Setup: the disk is not to be wiped"
  [ "$(answer AcceptEula)" = true ] || stop "Setup: applicable notices and license terms"
  answer CommandLine | grep -q agent || stop "Setup: who will use this device?"
  screen "Installing: copying files"
  dd if="$medium" of="$target" bs=1M 2>/dev/null || stop "Setup: the files could not be copied from $medium to $target"
  printf 1 | dd of="$target" bs=1 seek="$(option mark | sed 's/^0*//')" conv=notrunc 2>/dev/null
  answer ComputerName >name
  sha256sum </agent.ps1 | cut -d ' ' -f 1 >agent
  save
  screen "Installing: restarting"
  reboot -f
}

save ()
{
  tar c -C /volume . | dd of="$target" bs=1M seek=$at conv=notrunc 2>/dev/null
  sync
  blockdev --flushbufs "$target"
}

# --- in place of the boot manager

hex ()
{
  xxd -p | tr -d '\n'
}

xor ()
{
  awk -v a="$1" -v b="$2" 'function v(s, i) { return index("0123456789abcdef", substr(s, i, 1)) - 1 }
    BEGIN { for (i = 1; i <= length(a); i++) { x = v(a, i); y = v(b, i); r = 0
              for (bit = 1; bit < 16; bit *= 2) if (int(x / bit) % 2 != int(y / bit) % 2) r += bit
              printf "%x", r } }'
}

right ()
{
  [ "$(printf %s "$1" | sha256sum | cut -d ' ' -f 1)" = "$(cat digest)" ]
}

unlock ()
{
  [ -e digest ] || return 0
  how=TPM
  key=$(tpm2 load -Q -C $srk -u sealed.pub -r sealed.priv -c /tmp/sealed 2>/tmp/why &&
    tpm2 unseal -Q -c /tmp/sealed -p pcr:sha256:7,11 2>/tmp/why | hex)
  tpm2 flushcontext -t
  right "$key" && return
  how="recovery password"
  screen "Recovery: the TPM does not open this drive. Enter its recovery key to go on:"
  echo "guest: recovery"
  while read -r word; do
    key=$(xor "$(cat recovery)" "$(printf %s "$word" | tr -cd 0-9 | sha256sum | cut -d ' ' -f 1)")
    right "$key" && return
    screen "That recovery key is not right. Enter it again:"
  done </dev/tty1
}

# --- in place of Windows and its tools: the verbs of agent.ps1

fact ()
{
  echo "= $1 $2"
}

property ()
{
  sed -n "/^$1:/,/^TPM/s/.*value: *\"*\([^\"]*\)\"*$/\1/p" /tmp/properties | head -n 1
}

verb_windows ()
{
  echo "Linux $(uname -r) from the free medium, named $(cat name)"
  fact build "$(uname -r)"
  fact secureboot-state "$(secure)"
  fact unlocked "$how"
  fact agent "$(cat agent)"
}

# Each variable begins with four bytes of attributes.
secure ()
{
  od -An -tu1 /sys/firmware/efi/efivars/SecureBoot-* | awk '{ print $5 }'
}

verb_secureboot ()
{
  if [ "$(secure)" = 1 ]; then fact secureboot True; else fact secureboot False; fi
}

verb_tpm ()
{
  tpm2 getcap properties-fixed >/tmp/properties && tpm2 getcap properties-variable >/tmp/variable || return 1
  fact TpmPresent True
  if tpm2 readpublic -Q -c $srk >/dev/null 2>&1; then fact TpmReady True; else fact TpmReady False; fi
  fact TpmEnabled True
  if grep -q 'inLockout: *1' /tmp/variable; then fact LockedOut True; else fact LockedOut False; fi
  fact manufacturer "$(property TPM2_PT_MANUFACTURER)"
  fact specification "$(property TPM2_PT_FAMILY_INDICATOR)"
}

verb_tpmtool ()
{
  tpm2 getcap properties-fixed
}

verb_ek ()
{
  tpm2 createek -Q -G rsa -c /tmp/ek.ctx -u /tmp/ek.pub -f der
  status=$?
  tpm2 flushcontext -t
  [ $status = 0 ] || return 1
  fact present True
  fact hash "$(sha256sum </tmp/ek.pub | cut -d ' ' -f 1)"
  fact certificates "$(tpm2 getcap handles-nv-index | grep -ciE '0x1c000(02|0a|16)')"
}

verb_key ()
{
  echo data >/tmp/data
  tpm2 create -Q -C $srk -G rsa2048 -u /tmp/key.pub -r /tmp/key.priv &&
    tpm2 load -Q -C $srk -u /tmp/key.pub -r /tmp/key.priv -c /tmp/key.ctx &&
    tpm2 sign -Q -c /tmp/key.ctx -g sha256 -o /tmp/signature /tmp/data &&
    tpm2 verifysignature -Q -c /tmp/key.ctx -g sha256 -m /tmp/data -s /tmp/signature
  status=$?
  tpm2 flushcontext -t
  [ $status = 0 ] && fact provider tpm2-tools && fact signs True
}

password ()
{
  od -An -tu2 -N16 /dev/urandom | tr -d '\n' | awk '{ for (i = 1; i <= 8; i++) printf("%s%06d", (i > 1) ? "-" : "", $i * 11) }'
}

verb_bitlocker_on ()
{
  key=$(dd if=/dev/urandom bs=32 count=1 2>/dev/null | hex)
  word=$(password)
  # before anything measures into PCR 11, as at the next start
  tpm2 pcrread -Q -o /tmp/pcr7 sha256:7 || return 1
  { cat /tmp/pcr7; dd if=/dev/zero bs=32 count=1 2>/dev/null; } >/tmp/pcrs
  tpm2 createpolicy -Q --policy-pcr -l sha256:7,11 -f /tmp/pcrs -L /tmp/policy &&
    printf %s "$key" | xxd -r -p | tpm2 create -Q -C $srk -L /tmp/policy -i - -u sealed.pub -r sealed.priv || return 1
  printf %s "$word" >/tmp/word
  xor "$key" "$(printf %s "$word" | tr -cd 0-9 | sha256sum | cut -d ' ' -f 1)" >recovery
  printf %s "$key" | sha256sum | cut -d ' ' -f 1 >digest
  save
}

verb_bitlocker ()
{
  [ -e digest ] || return 1
  fact protection 1
  fact conversion 1
  fact percentage 100
  fact protectors 1,3
  fact pcrs 7,11
}

verb_recovery ()
{
  fact password "$(cat /tmp/word)"
}

verb_events ()
{
  fact count 0
}

for module in efivarfs virtio_ring virtio virtio_pci_modern_dev virtio_pci_legacy_dev virtio_pci virtio_blk; do
  insmod /$module.ko
done
# The medium is what has a second partition; the disk is the other one.
for medium in /dev/vda2 /dev/vdb2 /dev/nvme0n1p2 /dev/nvme1n1p2; do
  [ ! -b $medium ] || break
done
for target in /dev/vda /dev/vdb /dev/nvme0n1 /dev/nvme1n1; do
  [ -b $target ] && [ "${medium#"$target"}" = "$medium" ] && break
done
mount -t efivarfs efivarfs /sys/firmware/efi/efivars
tries=300
until [ -c /dev/tpmrm0 ] || [ $tries -eq 0 ]; do
  tries=$((tries - 1))
  usleep 100000
done
dd if="$target" bs=1M skip=$at count=1 2>/dev/null | tar x -C /volume 2>/dev/null
[ -s name ] || install
unlock
tpm2 pcrextend "11:sha256=$(echo unlocked | sha256sum | cut -d ' ' -f 1)"
if ! tpm2 readpublic -Q -c $srk >/dev/null 2>&1; then # as Windows does when it finds none
  tpm2 createprimary -Q -C o -G rsa2048 -c /tmp/srk.ctx \
    -a 'fixedtpm|fixedparent|sensitivedataorigin|userwithauth|noda|restricted|decrypt' &&
    tpm2 evictcontrol -Q -C o -c /tmp/srk.ctx $srk
  tpm2 flushcontext -t
fi
screen "Ready"
echo "guest: ready"

while read -r number verb arguments; do
  case $verb in
    poweroff | reboot)
      sync
      echo "guest: end $number 0"
      "$verb" -f ;;
    windows | tpm | tpmtool | secureboot | ek | key | bitlocker-on | bitlocker | recovery | events)
      "verb_$(echo "$verb" | tr - _)" 2>&1 | sed 's/^/guest| /'
      echo "guest: end $number $?" ;;
    *) echo "guest: end $number 127" ;;
  esac
done
