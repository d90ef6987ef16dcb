/* SPDX-License-Identifier: Apache-2.0 */
/* State directories. Who holds a folder's lock may do with it what it likes; nobody else. */
#include "domain/state.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/err.h"
#include "base/util.h"

#define NAME_CHARS "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-+"
#define UNIQUE_MAX 1000
#define DOMAINS_MAX 4096
/* Where the members of virtual switches meet (net/switch.c). */
#define RESERVED "switch"

struct state {
    char *name, *path;
    int dir, lock;
};

static const char *const files[] = {"control", "pid", "config.json"};

/* --- names and folders --- */

int state_check_name(const char *name, struct err *e) {
    size_t len = strspn(name, NAME_CHARS);

    if (strcmp(name, RESERVED) == 0)
        return err_set(e, 0, "a domain cannot be named '" RESERVED "'");
    if (len && !name[len] && len <= STATE_NAME_MAX && name[0] != '.')
        return 0;
    return err_set(e, 0,
                   "'%s' is no name for a domain: up to %d letters, digits, '.', '_', '-', '+'",
                   name, STATE_NAME_MAX);
}

static char *base_path(void) {
    const char *runtime = getenv("XDG_RUNTIME_DIR");

    if (geteuid() == 0)
        return xstrdup("/run/ringfence");
    if (runtime && *runtime)
        return xasprintf("%s/ringfence", runtime);
    return xasprintf("/tmp/ringfence-%u", (unsigned)geteuid());
}

static int check_folder(const char *path, struct err *e) {
    struct stat st;

    if (lstat(path, &st) < 0)
        return err_set(e, errno, "%s", path);
    if (!S_ISDIR(st.st_mode) || st.st_uid != geteuid() || st.st_mode & 022)
        return err_set(e, 0, "%s is not a folder that only this user writes to", path);
    return 0;
}

static int make_folder(const char *path, struct err *e) {
    if (mkdir(path, 0700) < 0 && errno != EEXIST)
        return err_set(e, errno, "create %s", path);
    return check_folder(path, e);
}

/* --- claiming --- */

/* Whether `fd` is still the file of that name: who removes a folder removes its lock first. */
static bool is_current(int dir, int fd) {
    struct stat a, b;

    return fstat(fd, &a) == 0 && fstatat(dir, "lock", &b, AT_SYMLINK_NOFOLLOW) == 0 &&
           a.st_ino == b.st_ino && a.st_dev == b.st_dev;
}

/* Codes without the system's words for them. */
static int coded(struct err *e, int code) {
    if (e)
        e->code = code;
    return -1;
}

static int name_taken(const struct state *s, struct err *e) {
    err_set(e, 0, "there is a domain named '%s' already", s->name);
    return coded(e, EEXIST);
}

static int no_domain(const char *name, struct err *e) {
    err_set(e, 0, "there is no domain named '%s' (see rf list)", name);
    return coded(e, ESRCH);
}

/* 0; or 1 when the folder was being removed: try again. */
static int lock_folder(struct state *s, struct err *e) {
    s->dir = open(s->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
    if (s->dir < 0)
        return errno == ENOENT ? 1 : err_set(e, errno, "open %s", s->path);
    s->lock = openat(s->dir, "lock", O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (s->lock < 0)
        return errno == ENOENT ? 1 : err_set(e, errno, "create %s/lock", s->path);
    if (flock(s->lock, LOCK_EX | LOCK_NB) < 0)
        return errno == EWOULDBLOCK ? name_taken(s, e) : err_set(e, errno, "lock %s", s->path);
    return !is_current(s->dir, s->lock);
}

static void close_folder(struct state *s) {
    cleanup_close_fn(&s->lock);
    cleanup_close_fn(&s->dir);
    s->lock = s->dir = -1;
}

static void free_state(struct state *s) {
    close_folder(s);
    free(s->name);
    free(s->path);
    free(s);
}

static void remove_files(const struct state *s) {
    for (size_t i = 0; i < ARRAY_LEN(files); i++)
        unlinkat(s->dir, files[i], 0);
}

static struct state *claim(const char *base, const char *name, struct err *e) {
    struct state *s = xcalloc(1, sizeof(*s));
    int r = 1;

    *s = (struct state){xstrdup(name), xasprintf("%s/%s", base, name), -1, -1};
    for (int tries = 0; r == 1 && tries < 100; tries++) {
        close_folder(s);
        r = make_folder(s->path, e);
        if (r == 0)
            r = lock_folder(s, e);
    }
    if (r == 1)
        err_set(e, EAGAIN, "%s comes and goes", s->path);
    if (r == 0) {
        remove_files(s);
        return s;
    }
    free_state(s);
    return NULL;
}

static struct state *claim_unique(const char *base, const char *wish, struct err *e) {
    cleanup_free char *name = xasprintf("%.*s", STATE_NAME_MAX - 8, *wish == '.' ? "_" : wish);
    struct state *s = NULL;

    for (char *c = name; *c; c++)
        if (!strchr(NAME_CHARS, *c))
            *c = '_';
    for (int i = 1; !s && i < UNIQUE_MAX; i++) {
        cleanup_free char *numbered = i == 1 ? xstrdup(name) : xasprintf("%s-%d", name, i);

        if (strcmp(numbered, RESERVED) == 0)
            continue;
        err_clear(e);
        s = claim(base, numbered, e);
        if (!s && e->code != EEXIST)
            return NULL;
    }
    return s;
}

struct state *state_claim(const char *name, bool make_unique, struct err *e) {
    cleanup_free char *base = base_path();
    cleanup_err struct err why = ERR_INIT;
    struct state *s = NULL;

    if (make_folder(base, &why) == 0)
        s = make_unique ? claim_unique(base, name, &why) : claim(base, name, &why);
    if (s)
        return s;
    err_set(e, 0, "%s", err_msg(&why));
    coded(e, why.code);
    return NULL;
}

const char *state_name(const struct state *s) {
    return s->name;
}

/* Through /proc, as the folder's own path may be longer than an address can be. */
char *state_path(const struct state *s, const char *file) {
    return xasprintf("/proc/self/fd/%d/%s", s->dir, file);
}

int state_write(const struct state *s, const char *file, const char *text, struct err *e) {
    cleanup_close int fd =
        openat(s->dir, file, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
    size_t len = strlen(text);
    ssize_t n = fd < 0 ? -1 : write(fd, text, len);

    if (n == (ssize_t)len)
        return 0;
    return err_set(e, n < 0 ? errno : ENOSPC, "write %s/%s", s->path, file);
}

/* The lock goes last: until then nobody takes the folder for a dead monitor's. */
static void remove_folder(struct state *s) {
    remove_files(s);
    unlinkat(s->dir, "lock", 0);
    rmdir(s->path);
}

void state_release(struct state *s) {
    if (!s)
        return;
    remove_folder(s);
    free_state(s);
}

/* --- clients --- */

static int connect_in(int dir, const char *name, struct err *e) {
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    if (fd < 0)
        return err_set(e, errno, "socket");
    snprintf(a.sun_path, sizeof(a.sun_path), "/proc/self/fd/%d/control", dir);
    if (connect(fd, (const struct sockaddr *)&a, sizeof(a)) == 0)
        return fd;
    int why = errno;
    close(fd);
    if (why == ENOENT || why == ECONNREFUSED)
        return no_domain(name, e);
    return err_set(e, why, "domain %s: control socket", name);
}

int state_connect(const char *name, struct err *e) {
    cleanup_free char *base = base_path(), *path = NULL;
    cleanup_close int dir = -1;

    if (state_check_name(name, e) < 0)
        return -1;
    path = xasprintf("%s/%s", base, name);
    dir = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
    if (dir < 0 && errno == ENOENT)
        return no_domain(name, e);
    if (dir < 0)
        return err_set(e, errno, "domain %s: %s", name, path);
    return connect_in(dir, name, e);
}

/* Whether a monitor holds the folder; one that nobody holds is removed. */
static bool is_alive(const char *base, const char *name) {
    struct state s = {.path = xasprintf("%s/%s", base, name), .dir = -1, .lock = -1};
    bool alive = false;

    s.dir = open(s.path, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
    s.lock = s.dir < 0 ? -1 : openat(s.dir, "lock", O_RDWR | O_CLOEXEC | O_NOFOLLOW);
    if (s.lock >= 0 && flock(s.lock, LOCK_EX | LOCK_NB) < 0)
        alive = errno == EWOULDBLOCK;
    else if (s.lock >= 0 && is_current(s.dir, s.lock))
        remove_folder(&s);
    close_folder(&s);
    free(s.path);
    return alive;
}

bool state_is_alive(const char *name) {
    cleanup_free char *base = base_path();

    return state_check_name(name, NULL) == 0 && is_alive(base, name);
}

static int by_name(const void *a, const void *b) {
    return strcmp(*(char *const *)a, *(char *const *)b);
}

char **state_list(size_t *count, struct err *e) {
    cleanup_free char *base = base_path();
    char **names = xcalloc(DOMAINS_MAX, sizeof(*names));
    DIR *d = opendir(base);
    const struct dirent *n;

    *count = 0;
    if (!d && errno != ENOENT) {
        err_set(e, errno, "%s", base);
        free(names);
        return NULL;
    }
    while (d && *count < DOMAINS_MAX && (n = readdir(d)))
        if (state_check_name(n->d_name, NULL) == 0 && is_alive(base, n->d_name))
            names[(*count)++] = xstrdup(n->d_name);
    if (d)
        closedir(d);
    qsort(names, *count, sizeof(*names), by_name);
    return names;
}
