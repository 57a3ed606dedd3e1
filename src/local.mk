noinst_LIBRARIES += libvtpm-tpm.a libvtpm-src.a
libvtpm_tpm_a_SOURCES = \
	src/tpm/engine.c src/tpm/engine.h \
	src/tpm/key_kinds.c src/tpm/key_kinds.h \
	src/tpm/tpm_commands.c src/tpm/tpm_commands.h \
	src/tpm/tpm_provision_commands.c src/tpm/tpm_provision_commands.h
libvtpm_src_a_SOURCES = \
	src/asker.c src/asker.h src/config.c src/config.h \
	src/link.c src/link.h src/notify.c src/notify.h src/prompt.c src/prompt.h src/serve.c src/serve.h \
	src/broker/broker.c src/broker/broker.h src/broker/broker_private.h src/broker/foreign.c src/broker/incoming.c \
	src/broker/confine.c \
	src/broker/owned.c src/broker/owned.h \
	src/broker/reader.c src/broker/reader.h \
	src/broker/unlock.c src/broker/unlock.h src/broker/unlock_times.h \
	src/ca/ca_client.c src/ca/ca_client.h \
	src/ca/ca_store.c src/ca/ca_store.h \
	src/ca/certificate.c src/ca/certificate.h \
	src/ca/request.c src/ca/request.h \
	src/client/client.c src/client/client.h src/client/connect.c src/client/connect.h \
	src/compat/swtpm_export.c src/compat/swtpm_export.h \
	src/compat/swtpm_files.c src/compat/swtpm_files.h \
	src/compat/swtpm_format.c src/compat/swtpm_format.h src/compat/swtpm_image.c src/compat/swtpm_image.h \
	src/compat/swtpm_import.c src/compat/swtpm_import.h \
	src/compat/swtpm_key.c src/compat/swtpm_key.h \
	src/keys/backup.c src/keys/backup.h \
	src/keys/epoch.c src/keys/epoch.h \
	src/keys/fleet.c src/keys/fleet.h \
	src/keys/glance.c src/keys/glance.h \
	src/keys/keyring.c src/keys/keyring.h \
	src/keys/management_client.c src/keys/management_client.h \
	src/keys/pool.c src/keys/pool.h \
	src/keys/retire.c src/keys/retire.h src/keys/search.c \
	src/keys/upkeep.c src/keys/upkeep.h src/keys/upkeep_backup.c \
	src/keys/census.c src/keys/census.h \
	src/keys/image_qcow2.c src/keys/image_qcow2.h \
	src/keys/image_search.c src/keys/image_search.h \
	src/keys/preflight.c src/keys/preflight.h \
	src/keys/walk.c src/keys/walk.h \
	src/device/activation.c src/device/activation.h \
	src/device/blobs.c src/device/blobs.h src/device/blobs_out.c src/device/blobs_private.h \
	src/device/broker_link.c src/device/broker_link.h \
	src/device/control.c src/device/control.h \
	src/device/control_channel.c src/device/control_channel.h \
	src/device/control_codec.c src/device/control_codec.h \
	src/device/data_channel.c src/device/data_channel.h \
	src/device/device.c src/device/device.h src/device/device_power.c src/device/device_private.h \
	src/device/device_rekey.c \
	src/device/device_storage.c \
	src/device/endpoint.c src/device/endpoint.h \
	src/device/management.c src/device/management.h \
	src/device/host_load.c src/device/host_load.h src/device/pid_file.c src/device/pid_file.h \
	src/device/sandbox/calls.c src/device/sandbox/calls.h src/device/sandbox/landlock.c src/device/sandbox/landlock.h \
	src/device/sandbox/sandbox.c src/device/sandbox/sandbox.h src/device/sandbox/trap.c src/device/sandbox/trap.h \
	src/device/server.c src/device/server.h src/device/server_key.c src/device/server_private.h \
	src/device/frontends/frontend.c src/device/frontends/frontend.h src/device/frontends/frontend_private.h \
	src/device/frontends/command_link.c src/device/frontends/command_link.h \
	src/device/frontends/cuse.c src/device/frontends/cuse_module.h \
	src/device/frontends/cuse_files.c src/device/frontends/cuse_files.h \
	src/device/frontends/cuse_ioctl.c src/device/frontends/cuse_ioctl.h \
	src/device/frontends/vtpm_proxy.c \
	src/provisioning/aside.c \
	src/provisioning/create.c src/provisioning/create.h \
	src/provisioning/endorsement.c src/provisioning/endorsement.h \
	src/provisioning/endorsement_request.c src/provisioning/endorsement_request.h \
	src/provisioning/identity.c src/provisioning/identity.h \
	src/provisioning/key_process.c src/provisioning/key_process.h \
	src/provisioning/lineage.c src/provisioning/lineage.h \
	src/provisioning/manufacture.c src/provisioning/manufacture.h \
	src/provisioning/nv.c src/provisioning/nv.h \
	src/provisioning/primary.c src/provisioning/primary.h \
	src/provisioning/public_part.c src/provisioning/public_part.h \
	src/provisioning/public_read.c src/provisioning/public_read.h \
	src/provisioning/rebind.c src/provisioning/rebind.h \
	src/provisioning/reconfigure.c src/provisioning/reconfigure.h \
	src/provisioning/reidentify.c src/provisioning/reidentify.h \
	src/provisioning/tpm_call.c src/provisioning/tpm_call.h

# libcrypto before the others: nearly all that the loader looks up is its own, and it looks in this order
VTPM_LIBS = libvtpm-src.a libvtpm-tpm.a libvtpm-state.a libvtpm-base.a $(CRYPTO_LIBS) $(TPMS_LIBS) $(GLIB_LIBS)
STATE_LIBS = libvtpm-state.a libvtpm-base.a $(CRYPTO_LIBS) $(GLIB_LIBS)

bin_PROGRAMS += vtpm
vtpm_SOURCES = src/main.c \
	src/commands/command.c src/commands/command.h \
	src/commands/key_tool.c src/commands/key_tool.h \
	src/commands/keys.c src/commands/rekey.c \
	src/commands/census.c src/commands/ca.c src/commands/check.c src/commands/create.c src/commands/ctl.c \
	src/commands/export.c src/commands/import.c src/commands/list.c \
	src/commands/destroy.c src/commands/inspect.c src/commands/inspect_certificates.c src/commands/inspect_certificates.h \
	src/commands/inspection.c src/commands/inspection.h \
	src/commands/clone.c src/commands/rebind.c src/commands/rebind.h src/commands/rebind_tool.c \
	src/commands/provider.c src/commands/provider.h src/commands/provider_keys.c src/commands/provider_list.c \
	src/commands/run.c
vtpm_LDADD = $(VTPM_LIBS)

# Loaded by vtpm run --cuse, and by nothing else. A plain shared object: no libtool for the one there is.
if CUSE
helper_PROGRAMS += vtpm-cuse.so
endif
vtpm_cuse_so_SOURCES = src/device/frontends/cuse_module.c src/device/frontends/cuse_module.h
vtpm_cuse_so_CFLAGS = $(AM_CFLAGS) $(FUSE3_CFLAGS) -fPIC
vtpm_cuse_so_LDFLAGS = -shared $(AM_LDFLAGS)
vtpm_cuse_so_LDADD = $(FUSE3_LIBS)

helper_PROGRAMS += vtpm-ca-local
vtpm_ca_local_SOURCES = src/ca/ca_local_main.c \
	src/ca/authority.c src/ca/authority.h \
	src/ca/pkcs11_key.c src/ca/signer.c src/ca/signer.h
vtpm_ca_local_CPPFLAGS = $(AM_CPPFLAGS) $(P11_CFLAGS)
vtpm_ca_local_LDADD = libvtpm-src.a $(STATE_LIBS) $(P11_LIBS)

helper_PROGRAMS += vtpm-provider-native
vtpm_provider_native_SOURCES = state/providers/native_main.c
vtpm_provider_native_LDADD = $(STATE_LIBS)
helper_PROGRAMS += vtpm-provider-passphrase vtpm-provider-raw-key
vtpm_provider_passphrase_SOURCES = state/providers/passphrase_main.c
vtpm_provider_passphrase_LDADD = $(STATE_LIBS)
vtpm_provider_raw_key_SOURCES = state/providers/raw_key_main.c
vtpm_provider_raw_key_LDADD = $(STATE_LIBS)

# swtpm's command lines: in a folder of their own, whose names are in nobody's way
compatdir = $(helperdir)/swtpm-compat
compat_PROGRAMS = swtpm-compat/swtpm swtpm-compat/swtpm_ioctl swtpm-compat/swtpm_setup
compat_common = src/compat/options.c src/compat/options.h
compat_state = $(compat_common) src/compat/glance_place.c src/compat/glance_place.h src/compat/given_key.c \
	src/compat/given_key.h src/compat/take_over.c src/compat/take_over.h
swtpm_compat_swtpm_SOURCES = src/compat/swtpm_main.c $(compat_state) \
	src/compat/socket.c src/compat/socket.h src/compat/socket_options.c src/compat/socket_options.h \
	src/compat/socket_channels.c src/compat/socket_channels.h
swtpm_compat_swtpm_LDADD = $(VTPM_LIBS)
swtpm_compat_swtpm_ioctl_SOURCES = src/compat/ioctl_main.c $(compat_common)
swtpm_compat_swtpm_ioctl_LDADD = $(VTPM_LIBS)
swtpm_compat_swtpm_setup_SOURCES = src/compat/setup_main.c $(compat_state) \
	src/compat/setup_options.c src/compat/setup_options.h src/compat/config_files.c src/compat/config_files.h
swtpm_compat_swtpm_setup_LDADD = $(VTPM_LIBS)
