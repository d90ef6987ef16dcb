/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A capture of what passes, in the format of pcap-savefile(5) with nanoseconds. Frames that wait
 * for segmentation are written whole, with the checksum that they would have; what is refused is
 * not written before it is taken. When the file cannot be written any more the capture ends, not
 * the network.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/err.h"
#include "base/iov.h"
#include "base/log.h"
#include "base/util.h"
#include "net/filter.h"
#include "net/offload.h"

#define MAGIC_NS 0xa1b23c4du
#define SNAPLEN 262144
#define LINKTYPE_ETHERNET 1
#define RECORD_HEADER 16

struct pcap {
    struct net_filter f;
    int fd; /* -1 once it could not be written */
    char *path;
    uint8_t *record; /* a header and NET_FRAME_MAX bytes */
};

static bool write_all(int fd, const uint8_t *buf, size_t len) {
    while (len) {
        ssize_t n = write(fd, buf, len);

        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return false;
        buf += n;
        len -= (size_t)n;
    }
    return true;
}

static void note(struct pcap *p, const struct net_frame *f) {
    uint8_t *frame = p->record + RECORD_HEADER;
    struct timespec now;

    if (p->fd < 0)
        return;
    size_t len = iov_read(f->iov, f->iov_count, 0, frame, MIN(f->len, (size_t)NET_FRAME_MAX));
    net_checksum(frame, len, &f->offload);
    clock_gettime(CLOCK_REALTIME, &now);
    const uint32_t header[] = {(uint32_t)now.tv_sec, (uint32_t)now.tv_nsec, (uint32_t)len,
                               (uint32_t)f->len};
    memcpy(p->record, header, sizeof(header));
    if (write_all(p->fd, p->record, RECORD_HEADER + len))
        return;
    log_warn("pcap %s: write: %s; the capture ends here", p->path, strerror(errno));
    close(p->fd);
    p->fd = -1;
}

static bool pcap_send(struct net *n, unsigned queue, const struct net_frame *f) {
    struct pcap *p = (struct pcap *)n;
    bool taken = net_send(p->f.inner, queue, f);

    if (taken)
        note(p, f);
    return taken;
}

static bool pcap_receive(void *arg, unsigned queue, const struct net_frame *f) {
    struct pcap *p = arg;
    bool taken = net_receive(&p->f.net, queue, f);

    if (taken)
        note(p, f);
    return taken;
}

static const struct net_front pcap_front = {pcap_receive, net_filter_send_again,
                                            net_filter_link_changed};

static void pcap_start(struct net *n) {
    net_filter_start((struct net_filter *)n, &pcap_front);
}

static void pcap_close(struct net *n) {
    struct pcap *p = (struct pcap *)n;

    net_close(p->f.inner);
    cleanup_close_fn(&p->fd);
    free(p->path);
    free(p->record);
    free(p);
}

static const struct net_ops pcap_ops = {
    .name = "pcap",
    .start = pcap_start,
    .send = pcap_send,
    .receive_again = net_filter_receive_again,
    .set_front = net_filter_set_front,
    .close = pcap_close,
};

struct net *net_pcap_new(struct net *inner, const char *path, struct err *e) {
    const uint32_t header[] = {MAGIC_NS, 2 | 4 << 16, 0, 0, SNAPLEN, LINKTYPE_ETHERNET};
    struct pcap *p = xcalloc(1, sizeof(*p));

    net_filter_init(&p->f, &pcap_ops, inner);
    p->path = xstrdup(path);
    p->record = xcalloc(1, RECORD_HEADER + NET_FRAME_MAX);
    p->fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (p->fd < 0)
        err_set(e, errno, "pcap: create %s", path);
    else if (!write_all(p->fd, (const uint8_t *)header, sizeof(header)))
        err_set(e, errno, "pcap: write %s", path);
    else
        return &p->f.net;
    pcap_close(&p->f.net);
    return NULL;
}
