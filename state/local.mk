noinst_LIBRARIES += libvtpm-state.a
libvtpm_state_a_SOURCES = \
	state/format.c state/format.h state/format_record.c state/format_envelope.c \
	state/header.c state/header.h \
	state/keyslots.c state/keyslots.h \
	state/owner.c state/owner.h state/place.c state/place.h \
	state/line.c state/line.h state/base64.c state/base64.h \
	state/provider.c state/provider.h state/provider_process.c state/provider_process.h \
	state/provider_reply.c state/provider_reply.h state/provider_request.c state/provider_request.h \
	state/audit.c state/audit.h \
	state/registry.c state/registry.h state/registry_entry.c state/registry_entry.h state/asker.c state/asker.h \
	state/seal.c state/seal.h \
	state/state.c state/state.h state/state_private.h state/state_commit.c state/state_create.c state/state_epoch.c \
	state/store.c state/store.h state/store_device.c state/store_device.h state/store_file.c state/store_file_private.h state/store_locks.c state/wraps.c state/wraps.h \
	state/providers/crypto.c state/providers/crypto.h \
	state/providers/given.c state/providers/given.h state/providers/passphrase.c state/providers/raw_key.c \
	state/providers/helper.c state/providers/helper.h \
	state/providers/native.c state/providers/native.h \
	state/providers/native_bags.c state/providers/native_bags.h \
	state/providers/native_pkcs12.c state/providers/native_pkcs12.h \
	state/providers/native_protect.c state/providers/native_protect.h \
	state/providers/native_ops.c state/providers/native_ops.h \
	state/providers/native_store.c state/providers/native_store.h
