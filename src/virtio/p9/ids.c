/* SPDX-License-Identifier: Apache-2.0 */
/* Users, groups and modes: the guest's on the one side, the host's on the other. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include "virtio/p9/session.h"

#define NOBODY 65534u

static uint32_t to_guest(const struct p9_map *maps, unsigned count, uint32_t id) {
    for (unsigned i = 0; i < count; i++)
        if (id - maps[i].host < maps[i].count)
            return maps[i].guest + (id - maps[i].host);
    return count ? NOBODY : id;
}

static bool to_host(const struct p9_map *maps, unsigned count, uint32_t id, uint32_t *host) {
    for (unsigned i = 0; i < count; i++)
        if (id - maps[i].guest < maps[i].count) {
            *host = maps[i].host + (id - maps[i].guest);
            return true;
        }
    *host = id;
    return !count;
}

uint32_t p9_uid_to_guest(const struct p9_server *s, uint32_t uid) {
    return to_guest(s->options.uids, s->options.uid_count, uid);
}

uint32_t p9_gid_to_guest(const struct p9_server *s, uint32_t gid) {
    return to_guest(s->options.gids, s->options.gid_count, gid);
}

bool p9_uid_to_host(const struct p9_server *s, uint32_t uid, uint32_t *host) {
    return to_host(s->options.uids, s->options.uid_count, uid, host);
}

bool p9_gid_to_host(const struct p9_server *s, uint32_t gid, uint32_t *host) {
    return to_host(s->options.gids, s->options.gid_count, gid, host);
}

uint32_t p9_mode_allowed(uint32_t mode, bool directory) {
    return mode & (directory ? S_ISGID | S_ISVTX | 0777u : S_ISVTX | 0777u);
}

static void give_away(struct p9_server *s, int fd, uint32_t uid, uint32_t gid,
                      const struct stat *st) {
    uint32_t host_uid, host_gid;

    if (!p9_uid_to_host(s, uid, &host_uid))
        host_uid = st->st_uid;
    if (!p9_gid_to_host(s, gid, &host_gid))
        host_gid = st->st_gid;
    if (host_uid == st->st_uid && host_gid == st->st_gid)
        return;
    if (fchownat(fd, "", host_uid, host_gid, AT_EMPTY_PATH) < 0 && errno == EPERM)
        /* The group alone may be one of ours. */
        (void)!fchownat(fd, "", (uid_t)-1, host_gid, AT_EMPTY_PATH);
}

/* fchmod, which does not take descriptors that are only a place. */
static int change_mode(int fd, uint32_t mode) {
    char path[32];

    snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    return chmod(path, mode) < 0 ? -errno : 0;
}

/* The host's umask has had its say, though the guest's kernel has applied its own already. */
int p9_adopt(struct p9_server *s, int fd, uint32_t uid, uint32_t gid, uint32_t mode,
             struct stat *st) {
    if (fstat(fd, st) < 0)
        return -errno;
    /* Somebody on the host was faster and put a link to another file there. */
    if (!S_ISDIR(st->st_mode) && st->st_nlink != 1)
        return 0;
    give_away(s, fd, uid, gid, st);
    mode = p9_mode_allowed(mode, S_ISDIR(st->st_mode)) | (st->st_mode & S_ISGID);
    if (!S_ISLNK(st->st_mode) && (st->st_mode & 07777) != mode) {
        int r = change_mode(fd, mode);

        if (r < 0)
            return r;
    }
    return fstat(fd, st) < 0 ? -errno : 0;
}
