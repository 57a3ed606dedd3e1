tap_cases += tests/integration/test_guest.py tests/integration/test_windows_list.py
EXTRA_DIST += qemu/canary.py qemu/clones.py qemu/debs.py qemu/demo qemu/fetch-kernel qemu/guest.py qemu/init qemu/init-apparmor qemu/init-nodes qemu/initramfs qemu/libvirt.py qemu/libvirt_story.py qemu/libvirt-emulator.xml qemu/libvirt-external.xml qemu/medium.py qemu/nodes.py qemu/scenario.py qemu/tpms.py

# Two boots of a real virtual machine; see qemu/demo.
demo: vtpm vtpm-provider-native tests/plainstate
	$(TEST_ENV) $(srcdir)/qemu/demo
.PHONY: demo

tap_cases += tests/integration/test_libvirt_hosts.py tests/integration/test_libvirt_docs.py tests/integration/test_virt_clone.py
EXTRA_DIST += tests/integration/libvirt_host.py tests/integration/nfs_like.c

# The harness for a Windows 11 medium; see docs/windows11.md.
tap_cases += tests/integration/test_windows11.py
EXTRA_DIST += tests/integration/windows_media.py
EXTRA_DIST += qemu/windows11 qemu/windows11.xml qemu/windows/agent.ps1 qemu/windows/answers.py qemu/windows/autounattend.xml qemu/windows/drill.py qemu/windows/free_medium.py qemu/windows/iso.py qemu/windows/libvirt_machine.py qemu/windows/machine.py qemu/windows/report.py qemu/windows/setup.sh

# The boot chain of a Windows 11 guest, with a free medium.
tap_cases += tests/integration/test_secure_boot.py
EXTRA_DIST += qemu/efi_variables.py qemu/event_log.py qemu/init-windows qemu/secure_boot.py

# The integration tests under Debian's 6.1 kernel, the device in its sandbox; a part of them in check.
tap_cases += tests/integration/test_kernel.py
EXTRA_DIST += qemu/check-kernel qemu/init-check tests/integration/kernel_part.py tests/integration/kernel_qemu.py
check-kernel: vtpm $(helper_PROGRAMS) $(check_PROGRAMS) $(tap_needs)
	$(TEST_ENV) $(srcdir)/qemu/check-kernel $(addprefix $(srcdir)/,$(filter tests/integration/%,$(tap_cases)) tests/integration/kernel_qemu.py)
.PHONY: check-kernel
