/* SPDX-License-Identifier: Apache-2.0 (part of Onion Gateway, see LICENSE)
 *
 * mock_upstream: a fake OpenAI-compatible upstream, one thread, epoll, no dependencies.
 *
 *   cc -O2 -o mock_upstream mock_upstream.c && ./mock_upstream [-p PORT] [-n CHUNKS] [-d DELAY_US] [-t TTFB_US]
 *
 *   POST /v1/chat/completions   JSON answer (~330 bytes), or SSE when the body says "stream": true:
 *                               CHUNKS content chunks DELAY_US apart (first after TTFB_US), a finish
 *                               chunk, a usage chunk, data: [DONE].  Each chunk's content is
 *                               "@<CLOCK_MONOTONIC ns, 19 digits>@" so that a driver on the same
 *                               machine can compute the one-way delay through a gateway.
 *   POST /v1/embeddings, POST /v1/completions, GET /v1/models, GET <anything else> (health, server info)
 *   POST /control?n=50&delay_us=0&ttfb_us=0    changes the three settings while running
 *   GET  /stats                                requests served, streams ended, chunks sent so far
 * Listens on 127.0.0.1 only. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "measure.h"

#define MAXFD 65536
typedef struct {
    char *in;
    size_t len, cap;
    char *out;
    size_t olen, ocap; /* unsent output (rare) */
    uint64_t due;
    int heap; /* position in timer heap, -1 = none */
    int left, total, streaming, pending, close_after;
} conn;

static conn *C[MAXFD];
static int heap[MAXFD], nheap;
static int ep, cfg_n = 50;
static long cfg_delay = 0, cfg_ttfb = 0;
static unsigned long served, sstreams, schunks; /* requests answered, streams ended, chunks sent */

static void hset(int i, int fd) {
    heap[i] = fd;
    C[fd]->heap = i;
}
static void up(int i) {
    int fd = heap[i];
    while (i) {
        int p = (i - 1) / 2;
        if (C[heap[p]]->due <= C[fd]->due) break;
        hset(i, heap[p]);
        i = p;
    }
    hset(i, fd);
}
static void down(int i) {
    int fd = heap[i];
    for (;;) {
        int c = 2 * i + 1;
        if (c >= nheap) break;
        if (c + 1 < nheap && C[heap[c + 1]]->due < C[heap[c]]->due) c++;
        if (C[fd]->due <= C[heap[c]]->due) break;
        hset(i, heap[c]);
        i = c;
    }
    hset(i, fd);
}
static void hpush(int fd, uint64_t due) {
    C[fd]->due = due;
    heap[nheap] = fd;
    C[fd]->heap = nheap;
    up(nheap++);
}
static void hdel(int fd) {
    int i = C[fd]->heap;
    if (i < 0) return;
    C[fd]->heap = -1;
    int l = heap[--nheap];
    if (i < nheap) {
        hset(i, l);
        up(i);
        down(C[l]->heap);
    }
}

static void drop(int fd) {
    conn *c = C[fd];
    if (!c) return;
    hdel(fd);
    free(c->in);
    free(c->out);
    free(c);
    C[fd] = 0;
    close(fd);
}

static int push(int fd, const char *b, size_t n) { /* 0 ok, -1 connection gone */
    conn *c = C[fd];
    if (!c->olen) {
        ssize_t w = send(fd, b, n, MSG_NOSIGNAL);
        if (w < 0) {
            if (errno != EAGAIN) {
                drop(fd);
                return -1;
            }
            w = 0;
        }
        if ((size_t)w == n) return 0;
        b += w;
        n -= w;
        struct epoll_event e = {EPOLLIN | EPOLLOUT, {.fd = fd}};
        epoll_ctl(ep, EPOLL_CTL_MOD, fd, &e);
    }
    if (c->olen + n > c->ocap) {
        c->ocap = (c->olen + n) * 2;
        c->out = realloc(c->out, c->ocap);
    }
    memcpy(c->out + c->olen, b, n);
    c->olen += n;
    return 0;
}

static char J[1024];
static size_t JN; /* ready JSON answer */
static int json_answer(char *o, const char *body) {
    return sprintf(o, "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %zu\r\n\r\n%s",
                   strlen(body), body);
}
static const char *SSEHEAD = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: "
                             "no-cache\r\nTransfer-Encoding: chunked\r\n\r\n";
#define CH \
    "{\"id\":\"chatcmpl-mock0001\",\"object\":\"chat.completion.chunk\",\"created\":1700000000,\"model\":\"mock-" \
    "upstream\",\"choices\":["
static int event(char *o, const char *json) {
    char b[700];
    int n = sprintf(b, "data: %s\n\n", json);
    return sprintf(o, "%x\r\n%s\r\n", n, b);
}

static void finish(int fd) {
    conn *c = C[fd];
    c->pending = c->streaming = 0;
    served++;
    if (c->close_after && !c->olen) drop(fd);
}

static void step(int fd) { /* one due action: JSON answer or next SSE chunk */
    conn *c = C[fd];
    char o[4096], j[600];
    int n = 0;
    uint64_t t = now_ns();
    if (!c->streaming) {
        if (!push(fd, J, JN)) finish(fd);
        return;
    }
    for (;;) {
        n = 0;
        if (c->left == c->total) n += sprintf(o, "%s", SSEHEAD);
        if (c->left > 0) {
            sprintf(j, CH "{\"index\":0,\"delta\":{%s\"content\":\"@%019llu@ \"},\"finish_reason\":null}]}",
                    c->left == c->total ? "\"role\":\"assistant\"," : "", (unsigned long long)now_ns());
            n += event(o + n, j);
            c->left--;
            schunks++;
        }
        if (c->left == 0) {
            n += event(o + n, CH "{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}");
            sprintf(j, CH "],\"usage\":{\"prompt_tokens\":42,\"completion_tokens\":%d,\"total_tokens\":%d}}", c->total,
                    c->total + 42);
            n += event(o + n, j);
            n += event(o + n, "[DONE]");
            n += sprintf(o + n, "0\r\n\r\n");
        }
        if (push(fd, o, n)) return;
        if (c->left == 0) {
            sstreams++;
            finish(fd);
            return;
        }
        if (cfg_delay) {
            uint64_t d = c->due ? c->due + cfg_delay * 1000ull : t + cfg_delay * 1000ull;
            if (d < t) d = t;
            hpush(fd, d);
            return;
        }
    }
}

static long num(const char *s, const char *k, long d) {
    char *p = strstr(s, k);
    return p ? atol(p + strlen(k)) : d;
}

/* handles one complete request in c->in; returns bytes used, 0 = need more, -1 = connection gone */
static long request(int fd) {
    conn *c = C[fd];
    char *h = memmem(c->in, c->len, "\r\n\r\n", 4), *p;
    size_t hl, bl = 0, used;
    int chunked = 0, clen = 0;
    if (!h) return 0;
    hl = h + 4 - c->in;
    *h = 0;
    c->close_after = 0;
    for (p = strstr(c->in, "\r\n"); p; p = strstr(p + 2, "\r\n")) {
        if (!strncasecmp(p + 2, "content-length:", 15)) {
            bl = atol(p + 17);
            clen = 1;
        } else if (!strncasecmp(p + 2, "transfer-encoding: chunked", 26)) chunked = 1;
        else if (!strncasecmp(p + 2, "connection: close", 17)) c->close_after = 1;
        else if (!strncasecmp(p + 2, "expect:", 7) && c->len == hl) {
            *h = '\r';
            push(fd, "HTTP/1.1 100 Continue\r\n\r\n", 25);
            return 0;
        }
    }
    *h = '\r';
    (void)clen;
    if (chunked) {
        char *e = memmem(c->in + hl - 2, c->len - hl + 2, "\r\n0\r\n\r\n", 7);
        if (!e) return 0;
        used = e + 7 - c->in;
        bl = used - hl;
    } else {
        used = hl + bl;
        if (c->len < used) return 0;
    }
    char o[2048];
    int get = !strncmp(c->in, "GET ", 4);
    char *path = strchr(c->in, ' ');
    if (!path || !strncmp(c->in, "PRI ", 4)) {
        drop(fd);
        return -1;
    } /* HTTP/2 (gRPC) probes */
    path++;
    if (!get && (!strncmp(path, "/v1/chat/completions", 20) || !strncmp(path, "/chat/completions", 17))) {
        char save = c->in[used];
        c->in[used] = 0;
        char *b = c->in + hl, *s = memmem(b, bl, "\"stream\"", 8);
        c->streaming = s && (s += 8, s += strspn(s, ": \r\n"), !strncmp(s, "true", 4));
        c->in[used] = save;
        c->total = c->left = cfg_n;
        c->due = 0;
        c->pending = 1;
        if (cfg_ttfb) hpush(fd, now_ns() + cfg_ttfb * 1000ull);
        else step(fd);
        return C[fd] ? (long)used : -1;
    }
    if (!strncmp(path, "/control", 8)) {
        char q[200];
        snprintf(q, 200, "%.*s", (int)strcspn(path, " "), path);
        cfg_n = num(q, "n=", cfg_n);
        cfg_delay = num(q, "delay_us=", cfg_delay);
        cfg_ttfb = num(q, "ttfb_us=", cfg_ttfb);
        json_answer(o, "{\"ok\":true}");
    } else if (!strncmp(path, "/stats", 6)) {
        char b[120];
        sprintf(b, "{\"served\":%lu,\"streams\":%lu,\"chunks\":%lu}", served, sstreams, schunks);
        json_answer(o, b);
    } else if (strstr(path, "/models") && (size_t)(strstr(path, "/models") - path) < 20)
        json_answer(o, "{\"object\":\"list\",\"data\":[{\"id\":\"mock-upstream\",\"object\":\"model\",\"created\":"
                       "1700000000,\"owned_by\":\"mock\",\"max_model_len\":131072}]}");
    else if (!strncmp(path, "/v1/embeddings", 14))
        json_answer(
            o, "{\"object\":\"list\",\"data\":[{\"object\":\"embedding\",\"index\":0,\"embedding\":[0.1,0.2,0.3,0.4,0."
               "5,0.6,0.7,0.8]}],\"model\":\"mock-upstream\",\"usage\":{\"prompt_tokens\":8,\"total_tokens\":8}}");
    else if (!strncmp(path, "/v1/completions", 15))
        json_answer(o, "{\"id\":\"cmpl-mock0001\",\"object\":\"text_completion\",\"created\":1700000000,\"model\":"
                       "\"mock-upstream\",\"choices\":[{\"index\":0,\"text\":\"Hello\",\"finish_reason\":\"stop\"}],"
                       "\"usage\":{\"prompt_tokens\":8,\"completion_tokens\":1,\"total_tokens\":9}}");
    else
        json_answer(o, "{\"status\":\"ok\",\"model_path\":\"mock-upstream\",\"served_model_name\":\"mock-upstream\","
                       "\"is_generation\":true}");
    served++;
    if (push(fd, o, strlen(o))) return -1;
    if (c->close_after) {
        drop(fd);
        return -1;
    }
    return used;
}

static void drain(int fd) { /* requests already buffered */
    while (C[fd] && !C[fd]->pending && C[fd]->len) {
        long u = request(fd);
        if (u <= 0) return;
        conn *c = C[fd];
        memmove(c->in, c->in + u, c->len - u);
        c->len -= u;
        c->in[c->len] = 0;
    }
}

int main(int argc, char **argv) {
    int port = 9100, o;
    while ((o = getopt(argc, argv, "p:n:d:t:")) != -1) {
        if (o == 'p') port = atoi(optarg);
        else if (o == 'n') cfg_n = atoi(optarg);
        else if (o == 'd') cfg_delay = atol(optarg);
        else if (o == 't') cfg_ttfb = atol(optarg);
        else return 2;
    }
    signal(SIGPIPE, SIG_IGN);
    prctl(PR_SET_TIMERSLACK, 1000);
    JN = json_answer(J, "{\"id\":\"chatcmpl-mock0001\",\"object\":\"chat.completion\",\"created\":1700000000,\"model\":"
                        "\"mock-upstream\",\"choices\":[{\"index\":0,\"message\":{\"role\":\"assistant\",\"content\":"
                        "\"Hello! This is a mock answer from a very fast fake "
                        "upstream.\"},\"logprobs\":null,\"finish_reason\":\"stop\"}],\"usage\":{\"prompt_tokens\":42,"
                        "\"completion_tokens\":14,\"total_tokens\":56}}");
    int ls = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), one = 1;
    setsockopt(ls, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    if (bind(ls, (void *)&a, sizeof a) || listen(ls, 8192)) {
        perror("listen");
        return 1;
    }
    ep = epoll_create1(0);
    struct epoll_event e = {EPOLLIN, {.fd = ls}}, ev[256];
    epoll_ctl(ep, EPOLL_CTL_ADD, ls, &e);
    for (;;) {
        struct timespec ts, *tp = 0;
        if (nheap) {
            uint64_t t = now_ns(), d = C[heap[0]]->due;
            d = d > t ? d - t : 0;
            ts.tv_sec = d / 1000000000;
            ts.tv_nsec = d % 1000000000;
            tp = &ts;
        }
        int n = epoll_pwait2(ep, ev, 256, tp, 0);
        for (int i = 0; i < n; i++) {
            int fd = ev[i].data.fd;
            if (fd == ls) {
                for (int s; (s = accept4(ls, 0, 0, SOCK_NONBLOCK)) >= 0;) {
                    if (s >= MAXFD) {
                        close(s);
                        continue;
                    }
                    setsockopt(s, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
                    C[s] = calloc(1, sizeof(conn));
                    C[s]->heap = -1;
                    struct epoll_event x = {EPOLLIN, {.fd = s}};
                    epoll_ctl(ep, EPOLL_CTL_ADD, s, &x);
                }
                continue;
            }
            conn *c = C[fd];
            if (!c) continue;
            if ((ev[i].events & EPOLLOUT) && c->olen) {
                ssize_t w = send(fd, c->out, c->olen, MSG_NOSIGNAL);
                if (w < 0 && errno != EAGAIN) {
                    drop(fd);
                    continue;
                }
                if (w > 0) {
                    memmove(c->out, c->out + w, c->olen - w);
                    c->olen -= w;
                }
                if (!c->olen) {
                    struct epoll_event x = {EPOLLIN, {.fd = fd}};
                    epoll_ctl(ep, EPOLL_CTL_MOD, fd, &x);
                    if (c->close_after && !c->pending) {
                        drop(fd);
                        continue;
                    }
                }
            }
            if (ev[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR)) {
                if (c->cap - c->len < 4096) {
                    c->cap = c->cap ? c->cap * 2 : 8192;
                    c->in = realloc(c->in, c->cap + 1);
                }
                ssize_t r = recv(fd, c->in + c->len, c->cap - c->len, 0);
                if (r == 0 || (r < 0 && errno != EAGAIN)) {
                    drop(fd);
                    continue;
                }
                if (r > 0) {
                    c->len += r;
                    c->in[c->len] = 0;
                    drain(fd);
                }
            }
        }
        uint64_t t = now_ns();
        while (nheap && C[heap[0]]->due <= t) {
            int fd = heap[0];
            hdel(fd);
            step(fd);
            if (C[fd] && !C[fd]->pending) drain(fd);
        }
    }
}
