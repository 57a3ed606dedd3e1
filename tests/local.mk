# Unit tests: one program a source file, GLib's test framework, TAP.

# of base/ and state/
plain_tests = \
	tests/unit/test-audit \
	tests/unit/test-base \
	tests/unit/test-format \
	tests/unit/test-format-record \
	tests/unit/test-given \
	tests/unit/test-harden \
	tests/unit/test-helper \
	tests/unit/test-io \
	tests/unit/test-keyslots \
	tests/unit/test-place \
	tests/unit/test-provider-reply \
	tests/unit/test-seal
doc_tests = tests/unit/test-errors tests/unit/test-state-format-doc
state_tests = \
	tests/unit/test-header \
	tests/unit/test-header-epoch \
	tests/unit/test-owner \
	tests/unit/test-state \
	tests/unit/test-state-damage \
	tests/unit/test-state-disk \
	tests/unit/test-state-epoch \
	tests/unit/test-state-follow \
	tests/unit/test-store-file
registry_tests = tests/unit/test-registry tests/unit/test-registry-change
provider_tests = tests/unit/test-provider tests/unit/test-provider-ask tests/unit/test-provider-process
# of src/
provisioning_tests = tests/unit/test-certificate tests/unit/test-key-process tests/unit/test-manufacture tests/unit/test-public-part tests/unit/test-swtpm-format
host_tests = tests/unit/test-keyring tests/unit/test-create tests/unit/test-identity tests/unit/test-rebind tests/unit/test-reader tests/unit/test-unlock tests/unit/test-unlock-ask
native_tests = tests/unit/test-native tests/unit/test-native-pkcs12 tests/unit/test-native-protect tests/crash/test-native-store
src_tests = tests/unit/test-census tests/unit/test-census-images tests/unit/test-client tests/unit/test-config tests/unit/test-control-codec \
	tests/unit/test-cuse-files tests/unit/test-cuse-ioctl tests/unit/test-host-load

tap_programs += $(plain_tests) $(native_tests) $(doc_tests) $(state_tests) $(registry_tests) $(provider_tests) $(host_tests) $(provisioning_tests) $(src_tests) \
	tests/unit/test-check tests/crash/test-crash tests/crash/test-lives tests/crash/test-online tests/crash/test-rebind

# what they share; a program takes from it what it needs
check_LIBRARIES = tests/unit/libunit.a
tests_unit_libunit_a_SOURCES = \
	tests/unit/census_fixture.c tests/unit/census_fixture.h \
	tests/unit/common.c tests/unit/common.h \
	tests/unit/doc_fixture.c tests/unit/doc_fixture.h \
	tests/unit/host_fixture.c tests/unit/host_fixture.h \
	tests/unit/native_fixture.c tests/unit/native_fixture.h \
	tests/unit/provider_fixture.c tests/unit/provider_fixture.h \
	tests/unit/registry_fixture.c tests/unit/registry_fixture.h \
	tests/unit/state_fixture.c tests/unit/state_fixture.h \
	tests/unit/unlock_fixture.c tests/unit/unlock_fixture.h

tests_unit_test_check_SOURCES = tests/unit/test-check.c \
	src/commands/check.c src/commands/command.c src/commands/command.h
crash_world = tests/crash/world.c tests/crash/world.h tests/crash/disk.c tests/crash/disk.h
tests_crash_test_crash_SOURCES = tests/crash/test-crash.c $(crash_world)
tests_crash_test_online_SOURCES = tests/crash/test-online.c $(crash_world)
tests_crash_test_rebind_SOURCES = tests/crash/test-rebind.c $(crash_world)

tests_crash_test_lives_SOURCES = tests/crash/test-lives.c tests/crash/disk.c tests/crash/disk.h

check_PROGRAMS += $(tap_programs) tests/plainstate
tests_plainstate_SOURCES = tests/plainstate.c
# runs inside the guest
check_PROGRAMS += tests/integration/node_client
tests_integration_node_client_SOURCES = tests/integration/node_client.c tests/integration/node_client.h tests/integration/node_ioctls.c
tests_integration_node_client_LDADD = -lpthread
# one list for all: a program takes from the libraries what it needs
LDADD = tests/unit/libunit.a $(VTPM_LIBS)

# the programs as a user meets them
tap_cases += \
	tests/integration/test_apparmor.py \
	tests/integration/test_ask.py \
	tests/integration/test_attack.py \
	tests/integration/test_audit.py \
	tests/integration/test_authority.py \
	tests/integration/test_bind.py \
	tests/integration/test_block_device.py \
	tests/integration/test_blobs.py \
	tests/integration/test_blobs_storm.py \
	tests/integration/test_certificates.py \
	tests/integration/test_census.py \
	tests/integration/test_clone.py \
	tests/integration/test_commands.py \
	tests/integration/test_control.py \
	tests/integration/test_control_clients.py \
	tests/integration/test_ctl.py \
	tests/integration/test_cuse.py \
	tests/integration/test_data.py \
	tests/integration/test_deep_rekey.py \
	tests/integration/test_docs.py \
	tests/integration/test_faults.py \
	tests/integration/test_fleet.py \
	tests/integration/test_full_disk.py \
	tests/integration/test_incoming.py \
	tests/integration/test_inspect.py \
	tests/integration/test_key.py \
	tests/integration/test_key_faults.py \
	tests/integration/test_keys.py \
	tests/integration/test_libvirt.py \
	tests/integration/test_life.py \
	tests/integration/test_list.py \
	tests/integration/test_loadvm.py \
	tests/integration/test_man.py \
	tests/integration/test_many.py \
	tests/integration/test_mistakes.py \
	tests/integration/test_package.py \
	tests/integration/test_preflight.py \
	tests/integration/test_rekey.py \
	tests/integration/test_rekey_epoch.py \
	tests/integration/test_rekey_guest.py \
	tests/integration/test_provider.py \
	tests/integration/test_proxmox.py \
	tests/integration/test_provider_keys.py \
	tests/integration/test_reidentify.py \
	tests/integration/test_rubbish.py \
	tests/integration/test_sandbox.py \
	tests/integration/test_secrets.py \
	tests/integration/test_service.py \
	tests/integration/test_slot_faults.py \
	tests/integration/test_soak.py \
	tests/integration/test_start.py \
	tests/integration/test_store.py \
	tests/integration/test_storm.py \
	tests/integration/test_swtpm.py \
	tests/integration/test_swtpm_alike.py \
	tests/integration/test_swtpm_blobs.py \
	tests/integration/test_swtpm_control.py \
	tests/integration/test_swtpm_options.py \
	tests/integration/test_swtpm_setup.py \
	tests/integration/test_swtpm_setup_keys.py \
	tests/integration/test_swtpm_shared.py \
	tests/integration/test_swtpm_sockets.py \
	tests/integration/test_migration_window.py \
	tests/integration/test_swtpm_state.py \
	tests/integration/test_swtpm_state_keys.py \
	tests/integration/test_swtpm_state_refused.py \
	tests/integration/test_tpm2_tools.py
EXTRA_DIST += tests/integration/blobs.py tests/integration/certificates.py tests/integration/clones.py tests/integration/command_host.py \
	tests/integration/control_bytes.py tests/integration/device.py tests/integration/failing_store.c \
	tests/integration/helpers tests/integration/hostile.py tests/integration/keyhost.py tests/integration/killed.py \
	tests/integration/overlay.py tests/integration/package.py tests/integration/providers.py \
	tests/integration/sandbox_attack.c tests/integration/statefile.py tests/integration/swtpm.py \
	tests/integration/swtpm_guest.py tests/integration/terminal.py tests/integration/tpm2_tools.py \
	tests/integration/tpm_bytes.py tests/integration/tpm_corpus.py
EXTRA_DIST += tests/run-tap tests/unit/helpers tests/unit/swtpm-state tests/integration/killed_names.c \
	tests/integration/newer_library.c

# The parsers under clang's sanitizers: VTPM_FUZZ_SECONDS for each, 6 in check.
tap_cases += tests/fuzz-run
EXTRA_DIST += tests/fuzz tests/lint .clang-format .clang-tidy
# And the running device under a hostile guest and peer: VTPM_SOAK_COMMANDS of both, 20000 in check.
fuzz: vtpm $(helper_PROGRAMS)
	VTPM_FUZZ_SECONDS=$${VTPM_FUZZ_SECONDS:-60} $(srcdir)/tests/fuzz-run
	$(TEST_ENV) VTPM_SOAK_COMMANDS=$${VTPM_SOAK_COMMANDS:-200000} $(srcdir)/tests/integration/test_soak.py
.PHONY: fuzz

# Some of them again, built for aarch64 and in the kernel of an emulated machine; see qemu/aarch64.
aarch64_cases = $(patsubst %,tests/integration/test_%.py,sandbox attack start data control control_clients ctl life blobs \
	incoming store rubbish soak)
aarch64:
	$(srcdir)/qemu/aarch64 aarch64 $(plain_tests) $(state_tests) $(src_tests) $(aarch64_cases)
.PHONY: aarch64
EXTRA_DIST += qemu/aarch64
