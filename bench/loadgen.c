/* SPDX-License-Identifier: Apache-2.0 (part of Onion Gateway, see LICENSE)
 *
 * loadgen: HTTP/1.1 load driver for chat completions, one thread, epoll, no dependencies.
 *
 *   cc -O2 -o loadgen loadgen.c && ./loadgen -p PORT [-P PATH] -f BODYFILE [-H "Name: value"]... -c CONNS -d SECS
 *        [-w WARMUP]
 *        [-r RATE]   open loop: RATE requests/s on a fixed schedule, latency counted from the scheduled instant
 *        [-g SECS]   closed loop: spread the connections' first requests over SECS (streams get different phases)
 *        [-s N]      answers are SSE with N stamped chunks ("@<19 digits>@", see mock_upstream.c)
 *
 * Without -r the loop is closed: every connection sends its next request when the answer is complete.
 * Connects to 127.0.0.1 only.  Prints one JSON object; times in microseconds.  An answer counts as an error
 * unless it is 200 and whole ("choices" in a JSON answer; all N chunks and [DONE] in a stream). */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "measure.h"

enum { IDLE, HEAD, BODY, LEN, DATA, CRLF, TRAIL, EOFBODY };
typedef struct {
    int fd, st, status, close, busy, first, chunks, dig, in_at, connecting;
    long left;
    uint64_t t0, stamp;
    size_t sent;
    char h[4096];
    int hl;
    char b[2048];
    int bl;
    char tail[33];
    int tl;
} conn;

static conn *C;
static int nconn = 1, port, ep, want_chunks = -1;
static struct sockaddr_in A;
static char *req;
static size_t reqlen;
static double rate;
static int ramped;
static uint64_t tbeg, tend;
static vec lat, ttft, delay;
static unsigned long ok, bad, badstatus, shortans, connerr, chunks, started;
static int *idle, nidle, laststatus;
static uint64_t nextdue;
static char lastbad[200];
static uint64_t *backlog;
static size_t bh, bt, bcap;

static void dial(int i) {
    conn *c = &C[i];
    if (c->fd >= 0) close(c->fd);
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    int one = 1;
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    c->connecting = 1;
    connect(c->fd, (void *)&A, sizeof A);
    struct epoll_event e = {EPOLLIN | EPOLLOUT, {.u32 = i}};
    epoll_ctl(ep, EPOLL_CTL_ADD, c->fd, &e);
}
static void flush_req(int i) {
    conn *c = &C[i];
    if (c->connecting) return;
    ssize_t w = send(c->fd, req + c->sent, reqlen - c->sent, MSG_NOSIGNAL);
    if (w > 0) c->sent += w;
    struct epoll_event e = {EPOLLIN | (c->sent < reqlen ? EPOLLOUT : 0), {.u32 = i}};
    epoll_ctl(ep, EPOLL_CTL_MOD, c->fd, &e);
}
static void start(int i, uint64_t t0) {
    conn *c = &C[i];
    c->busy = 1;
    c->st = HEAD;
    c->hl = c->bl = c->tl = c->chunks = c->dig = c->in_at = c->close = c->status = 0;
    c->first = 1;
    c->sent = 0;
    c->t0 = t0;
    started++;
    flush_req(i);
}
static void next(int i) {
    if (!rate) start(i, now_ns());
    else if (bh != bt) start(i, backlog[bh++ % bcap]);
    else {
        C[i].busy = 0;
        C[i].st = IDLE;
        idle[nidle++] = i;
    }
}
static void done(int i, int good) {
    conn *c = &C[i];
    uint64_t t = now_ns();
    int cnt = t >= tbeg; /* the slow ones that began in the warm-up are part of the load */
    if (good && c->status == 200) {
        c->tail[c->tl] = 0;
        c->b[c->bl] = 0;
        if (want_chunks >= 0 ? (c->chunks != want_chunks || !strstr(c->tail, "[DONE]"))
                             : !strstr(c->b, "\"choices\"")) {
            good = 0;
            if (cnt) shortans++;
        }
    } else {
        good = 0;
        if (cnt && c->status != 200) badstatus++;
    }
    if (!good) {
        laststatus = c->status;
        c->b[c->bl] = 0;
        snprintf(lastbad, sizeof lastbad, "%.190s", c->b);
    }
    if (cnt) {
        if (good) {
            ok++;
            add(&lat, (t - c->t0) / 1e3);
        } else bad++;
    }
    if (c->close) dial(i);
    next(i);
}
static void body(conn *c, const char *p, long n) {
    if (c->bl < 2000) {
        long k = n < 2000 - c->bl ? n : 2000 - c->bl;
        memcpy(c->b + c->bl, p, k);
        c->bl += k;
    }
    if (want_chunks < 0) return;
    if (n >= 32) {
        memcpy(c->tail, p + n - 32, 32);
        c->tl = 32;
    } else {
        int keep = c->tl + n > 32 ? 32 - n : c->tl;
        memmove(c->tail, c->tail + c->tl - keep, keep);
        memcpy(c->tail + keep, p, n);
        c->tl = keep + n;
    }
    const char *e = p + n;
    uint64_t t = 0;
    while (p < e) {
        if (!c->in_at) {
            p = memchr(p, '@', e - p);
            if (!p) break;
            p++;
            c->in_at = 1;
            c->dig = 0;
            c->stamp = 0;
            continue;
        }
        if (*p >= '0' && *p <= '9') {
            c->stamp = c->stamp * 10 + *p - '0';
            c->dig++;
            p++;
            continue;
        }
        if (*p == '@' && c->dig == 19) {
            if (!t) t = now_ns();
            c->chunks++;
            if (c->first && (ramped || c->t0 >= tbeg)) add(&ttft, (t - c->t0) / 1e3);
            if (t >= tbeg) {
                chunks++;
                add(&delay, t > c->stamp ? (t - c->stamp) / 1e3 : 0);
            }
            c->first = 0;
        }
        c->in_at = 0;
        p++;
    }
}
static void data(int i, char *p, long n) {
    conn *c = &C[i];
    char *e = p + n;
    while (p < e) switch (c->st) {
        case IDLE: return;
        case HEAD: {
            long k = e - p;
            if (k > 4095 - c->hl) k = 4095 - c->hl;
            if (k <= 0) {
                c->close = 1;
                done(i, 0);
                return;
            }
            memcpy(c->h + c->hl, p, k);
            c->h[c->hl + k] = 0;
            char *x = strstr(c->h + (c->hl > 3 ? c->hl - 3 : 0), "\r\n\r\n");
            if (!x) {
                c->hl += k;
                return;
            }
            p += (x + 4 - c->h) - c->hl;
            c->status = atoi(c->h + 9);
            c->left = -1;
            c->st = EOFBODY;
            for (char *l = strstr(c->h, "\r\n"); l && l < x; l = strstr(l + 2, "\r\n")) {
                if (!strncasecmp(l + 2, "content-length:", 15)) {
                    c->left = atol(l + 17);
                    c->st = BODY;
                } else if (!strncasecmp(l + 2, "transfer-encoding: chunked", 26)) {
                    c->st = LEN;
                    c->left = 0;
                } else if (!strncasecmp(l + 2, "connection: close", 17)) c->close = 1;
            }
            if (c->st == BODY && !c->left) {
                done(i, 1);
                return;
            }
            if (c->st == EOFBODY) c->close = 1;
            break;
        }
        case BODY: {
            long k = e - p < c->left ? e - p : c->left;
            body(c, p, k);
            p += k;
            if (!(c->left -= k)) {
                done(i, 1);
                return;
            }
            break;
        }
        case EOFBODY: body(c, p, e - p); return;
        case LEN: {
            char ch = *p++;
            if (ch == '\n') {
                c->st = c->left ? DATA : TRAIL;
            } else if (ch >= '0' && ch <= '9') c->left = c->left * 16 + ch - '0';
            else if ((ch | 32) >= 'a' && (ch | 32) <= 'f') c->left = c->left * 16 + (ch | 32) - 'a' + 10;
            break;
        }
        case DATA: {
            long k = e - p < c->left ? e - p : c->left;
            body(c, p, k);
            p += k;
            if (!(c->left -= k)) c->st = CRLF;
            break;
        }
        case CRLF:
            if (*p++ == '\n') {
                c->st = LEN;
                c->left = 0;
            }
            break;
        case TRAIL:
            if (*p++ == '\n') {
                done(i, 1);
                return;
            }
            break;
        }
}

int main(int argc, char **argv) {
    char *path = "/v1/chat/completions", *bodyf = 0, hdr[4096] = "";
    double secs = 2, warm = 0.3, ramp = 0;
    int o, up = 0;
    while ((o = getopt(argc, argv, "p:P:f:H:c:d:w:r:s:g:")) != -1) switch (o) {
        case 'p': port = atoi(optarg); break;
        case 'P': path = optarg; break;
        case 'f': bodyf = optarg; break;
        case 'H': strcat(strcat(hdr, optarg), "\r\n"); break;
        case 'c': nconn = atoi(optarg); break;
        case 'd': secs = atof(optarg); break;
        case 'w': warm = atof(optarg); break;
        case 'r': rate = atof(optarg); break;
        case 'g': ramp = atof(optarg), ramped = 1; break;
        case 's': want_chunks = atoi(optarg); break;
        default: return 2;
        }
    if (!port || !bodyf) return fprintf(stderr, "need -p and -f\n"), 2;
    if (secs > 120) secs = 120;
    if (nconn > 15000) nconn = 15000;
    FILE *f = fopen(bodyf, "rb");
    if (!f) {
        perror(bodyf);
        return 2;
    }
    static char bd[4 << 20];
    size_t bn = fread(bd, 1, sizeof bd, f);
    fclose(f);
    req = malloc(bn + 8192);
    reqlen = sprintf(req,
                     "POST %s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nContent-Type: application/json\r\nAccept: "
                     "*/*\r\n%sContent-Length: %zu\r\n\r\n",
                     path, port, hdr, bn);
    memcpy(req + reqlen, bd, bn);
    reqlen += bn;
    A = (struct sockaddr_in){.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    signal(SIGPIPE, SIG_IGN);
    prctl(PR_SET_TIMERSLACK, 1000);
    ep = epoll_create1(0);
    C = calloc(nconn, sizeof *C);
    idle = calloc(nconn, sizeof *idle);
    bcap = 1 << 20;
    backlog = calloc(bcap, 8);
    uint64_t t0 = now_ns();
    tbeg = t0 + warm * 1e9;
    tend = tbeg + secs * 1e9;
    nextdue = t0;
    for (int i = 0; i < nconn; i++) {
        C[i].fd = -1;
        dial(i);
        if (rate) idle[nidle++] = i;
    }
    static char buf[1 << 18];
    struct epoll_event ev[512];
    struct rusage r0, r1;
    getrusage(RUSAGE_SELF, &r0);
    for (uint64_t t; (t = now_ns()) < tend;) {
        uint64_t wait = tend - t;
        if (rate) {
            while (nextdue <= t) {
                if (nidle) start(idle[--nidle], nextdue);
                else if (bt - bh < bcap) backlog[bt++ % bcap] = nextdue;
                nextdue += 1e9 / rate;
            }
            if (nextdue - t < wait) wait = nextdue - t;
        } else if (up < nconn) {
            double per = ramp * 1e9 / nconn;
            while (up < nconn && t0 + (uint64_t)(per * up) <= t) {
                start(up, now_ns());
                up++;
            }
            uint64_t d = up < nconn ? t0 + (uint64_t)(per * up) : tend;
            d = d > t ? d - t : 0;
            if (d < wait) wait = d;
        }
        struct timespec ts = {wait / 1000000000, wait % 1000000000};
        int n = epoll_pwait2(ep, ev, 512, &ts, 0);
        for (int k = 0; k < n; k++) {
            int i = ev[k].data.u32;
            conn *c = &C[i];
            if (c->connecting) {
                int err = 0;
                socklen_t l = sizeof err;
                getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &err, &l);
                if (err || (ev[k].events & EPOLLERR)) {
                    connerr++;
                    if (connerr > 20000) goto end;
                    usleep(1000);
                    dial(i);
                    continue;
                }
                c->connecting = 0;
                if (c->busy) flush_req(i);
                else {
                    struct epoll_event e = {EPOLLIN, {.u32 = i}};
                    epoll_ctl(ep, EPOLL_CTL_MOD, c->fd, &e);
                }
                continue;
            }
            if ((ev[k].events & EPOLLOUT) && c->busy && c->sent < reqlen) flush_req(i);
            if (ev[k].events & (EPOLLIN | EPOLLHUP | EPOLLERR)) {
                ssize_t r = recv(c->fd, buf, sizeof buf, 0);
                if (r > 0) data(i, buf, r);
                else if (r == 0 || errno != EAGAIN) {
                    if (c->busy) {
                        int good = c->st == EOFBODY;
                        c->close = 1;
                        if (c->st == HEAD && !c->hl) {
                            dial(i);
                            c->sent = 0;
                            if (!good) {
                                connerr++;
                                if (connerr > 20000) goto end;
                            }
                        } else done(i, good);
                    } else dial(i);
                }
            }
        }
    }
end:;
    double s = (now_ns() - tbeg) / 1e9;
    getrusage(RUSAGE_SELF, &r1);
    double cpu = (r1.ru_utime.tv_sec - r0.ru_utime.tv_sec) + (r1.ru_stime.tv_sec - r0.ru_stime.tv_sec) +
                 ((r1.ru_utime.tv_usec - r0.ru_utime.tv_usec) + (r1.ru_stime.tv_usec - r0.ru_stime.tv_usec)) / 1e6;
    printf("{\"conns\":%d,\"secs\":%.2f,\"ok\":%lu,\"errors\":%lu,\"bad_status\":%lu,\"short\":%lu,\"reconnects\":%lu,"
           "\"last_status\":%d,\"rps\":%.1f,\"driver_cpu\":%.2f,\"backlog\":%zu,\"started\":%lu",
           nconn, s, ok, bad, badstatus, shortans, connerr, laststatus, ok / s, cpu / (s + warm), bt - bh, started);
    show("latency_us", &lat);
    if (want_chunks >= 0) {
        printf(",\"chunks_per_s\":%.1f", chunks / s);
        show("ttft_us", &ttft);
        show("chunk_delay_us", &delay);
    }
    if (bad) {
        for (char *p = lastbad; *p; p++)
            if (*p < 32 || *p == '"' || *p == '\\' || *p > 126) *p = ' ';
        printf(",\"last_bad\":\"%s\"", lastbad);
    }
    printf("}\n");
    return 0;
}
