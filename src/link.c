/* SPDX-License-Identifier: BSD-3-Clause */
#include "src/link.h"

#include <string.h>

#include "base/cursor.h"
#include "base/errors.h"
#include "base/io.h"

G_DEFINE_QUARK (vtpm_link_error_quark, vtpm_link_error)

/* type, number, then the lengths of text, DEK, record, keys and parts, which follow in this order */
#define FIXED_SIZE (4 + 8 + 5 * 4)
#define MAX_FIELD (VTPM_MAX_PAYLOAD + 1024)

void
vtpm_link_message_clear (VtpmLinkMessage *message)
{
  g_clear_pointer (&message->text, g_free);
  g_clear_pointer (&message->dek, vtpm_secret_free);
  g_clear_pointer (&message->record, g_bytes_unref);
  g_clear_pointer (&message->keys, vtpm_secret_free);
  g_clear_pointer (&message->parts, vtpm_blob_free);
  vtpm_fd_clear (&message->fd);
}

static gboolean
gone (GError **error)
{
  vtpm_error_set (error, VTPM_LINK_ERROR, VTPM_ERROR_FAILED,
                  "device and broker lost each other; start the TPM again and see the log");
  return FALSE;
}

gboolean
vtpm_link_send (int sock, const VtpmLinkMessage *message, GError **error)
{
  guint8 fixed[FIXED_SIZE];
  gsize text = message->text ? strlen (message->text) : 0;
  gsize record = message->record ? g_bytes_get_size (message->record) : 0;
  VtpmWriter w = vtpm_writer (fixed, sizeof fixed);
  vtpm_write_le32 (&w, message->type);
  vtpm_write_le64 (&w, message->number);
  vtpm_write_le32 (&w, (guint32) text);
  vtpm_write_le32 (&w, message->dek ? (guint32) message->dek->len : 0);
  vtpm_write_le32 (&w, (guint32) record);
  vtpm_write_le32 (&w, message->keys ? (guint32) message->keys->len : 0);
  vtpm_write_le32 (&w, message->parts ? (guint32) message->parts->len : 0);
  gboolean fine = vtpm_send_with_fd (sock, fixed, sizeof fixed, message->fd)
                  && (!text || vtpm_write_full (sock, message->text, text))
                  && (!message->dek || vtpm_write_full (sock, message->dek->data, message->dek->len))
                  && (!record || vtpm_write_full (sock, g_bytes_get_data (message->record, NULL), record))
                  && (!message->keys || vtpm_write_full (sock, message->keys->data, message->keys->len))
                  && (!message->parts || vtpm_write_full (sock, message->parts->data, message->parts->len));
  return fine || gone (error);
}

static gboolean
read_exactly (int sock, void *buf, gsize len)
{
  return vtpm_read_full (sock, buf, len) == (ssize_t) len;
}

static gboolean
receive_secret (int sock, gsize len, VtpmSecret **secret, GError **error)
{
  if (len == 0)
    return TRUE;
  *secret = vtpm_secret_new (len, error);
  if (!*secret)
    return FALSE;
  return read_exactly (sock, (*secret)->data, len) || gone (error);
}

static gboolean
receive_fields (int sock, const guint32 len[static 5], VtpmLinkMessage *message, GError **error)
{
  if (len[0])
    {
      message->text = g_malloc0 ((gsize) len[0] + 1);
      if (!read_exactly (sock, message->text, len[0]))
        return gone (error);
    }
  if (!receive_secret (sock, len[1], &message->dek, error))
    return FALSE;
  if (len[2])
    {
      guint8 *record = g_malloc (len[2]);
      gboolean fine = read_exactly (sock, record, len[2]);
      message->record = g_bytes_new_take (record, len[2]);
      if (!fine)
        return gone (error);
    }
  if (!receive_secret (sock, len[3], &message->keys, error))
    return FALSE;
  if (len[4])
    {
      message->parts = vtpm_blob_new (len[4]);
      return read_exactly (sock, message->parts->data, len[4]) || gone (error);
    }
  return TRUE;
}

gboolean
vtpm_link_receive (int sock, VtpmLinkMessage *message, GError **error)
{
  guint8 fixed[FIXED_SIZE];
  guint32 len[5];
  *message = (VtpmLinkMessage){ .fd = -1 };
  ssize_t n = vtpm_recv_with_fd (sock, fixed, sizeof fixed, 0, &message->fd);
  if (n <= 0 || !read_exactly (sock, fixed + n, sizeof fixed - (gsize) n))
    return gone (error);
  VtpmReader r = vtpm_reader (fixed, sizeof fixed);
  message->type = vtpm_read_le32 (&r);
  message->number = vtpm_read_le64 (&r);
  for (guint i = 0; i < G_N_ELEMENTS (len); i++)
    {
      len[i] = vtpm_read_le32 (&r);
      if (len[i] > MAX_FIELD)
        return gone (error);
    }
  return receive_fields (sock, len, message, error);
}
