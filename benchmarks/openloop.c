/* HTTP load from one thread: what a Python client cannot make on the one core that is left beside a server.

     openloop PORT SECONDS SEED CONNECTIONS PATIENCE STREAM...

   STREAM is FILE,rate=R,deadline=MS (open loop: a Poisson process of R requests a second) or
   FILE,clients=N,deadline=MS (closed loop: N clients that each wait for their answer). FILE holds whole
   requests, each behind its length as a native 32-bit number; they are sent in turn, from one drawn at random on.
   All streams share one pool of keep-alive connections to 127.0.0.1:PORT.

   Latency counts from the moment at which a request was meant to leave. An arrival that finds no free
   connection waits for one, and its latency runs on; where too many wait already it is `unsent`. PATIENCE is for
   how many seconds answers are waited for after the last request. Prints JSON. Built by openloop.py. */

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <math.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

enum { HEAD_BYTES = 8192, MAX_STATUS = 600, MAX_EVENTS = 256, CHUNK_BYTES = 65536 };
enum state { CLOSED, IDLE, SENDING, READING };

struct numbers { double *values; size_t count, room; };

struct request { char *bytes; size_t length; };

struct stream {
    struct request *requests;
    size_t request_count;
    double rate, deadline;         /* a second; seconds */
    int clients;
    double next;                   /* when the next arrival is meant to leave, in clock seconds */
    uint64_t random, turn;         /* turn: of the requests, taken one after the other */
    long arrivals, sent, in_deadline, broken, unanswered, unsent;
    long statuses[MAX_STATUS];
    struct numbers answers, refusals, lags;   /* seconds */
};

struct connection {
    int fd;
    enum state state;
    struct stream *stream;
    struct request *request;
    size_t offset;                 /* bytes of the request that are sent */
    double meant;
    char head[HEAD_BYTES];
    size_t head_length;
    bool in_body, ends_with_connection, closes;
    long body_left;
    int status;
};

struct arrival { struct stream *stream; double meant; };

static struct connection *connections;
static int connection_count, *idle, idle_count, *closed, closed_count, busy_count;
static struct arrival *waiting;    /* a ring as long as there are connections */
static int waiting_first, waiting_count;
static int poller, timer, port;
static double end_time, last_answer;

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static void die(const char *what) {
    fprintf(stderr, "openloop: %s%s%s\n", what, errno ? ": " : "", errno ? strerror(errno) : "");
    exit(2);
}

static void *allocate(size_t count, size_t size) {
    void *memory = calloc(count ? count : 1, size);
    if (!memory) die("no memory");
    return memory;
}

static void keep(struct numbers *numbers, double value) {
    if (numbers->count == numbers->room) {
        numbers->room = numbers->room ? numbers->room * 2 : 4096;
        numbers->values = realloc(numbers->values, numbers->room * sizeof(double));
        if (!numbers->values) die("no memory");
    }
    numbers->values[numbers->count++] = value;
}

/* SplitMix64 (Steele, Lea, Flood 2014): small, and good enough for arrivals and choices. */
static uint64_t draw(struct stream *stream) {
    uint64_t z = (stream->random += 0x9E3779B97F4A7C15ull);
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
    return z ^ (z >> 31);
}

static double draw_gap(struct stream *stream) {
    double uniform = ((double)(draw(stream) >> 11) + 1.0) / 9007199254740993.0;  /* in (0, 1] */
    return -log(uniform) / stream->rate;
}

/* ---- connections ---- */

static void arrive(struct stream *stream, double meant);

static int index_of(struct connection *c) { return (int)(c - connections); }

static void listen_for(struct connection *c, uint32_t events) {
    struct epoll_event event = {.events = events, .data.ptr = c};
    if (epoll_ctl(poller, EPOLL_CTL_MOD, c->fd, &event) < 0) die("epoll_ctl");
}

static void shut(struct connection *c) {
    if (c->state == IDLE) {
        for (int i = 0; i < idle_count; i++)
            if (idle[i] == index_of(c)) { idle[i] = idle[--idle_count]; break; }
    } else if (c->state != CLOSED) {
        busy_count--;
    }
    close(c->fd);
    c->state = CLOSED;
    closed[closed_count++] = index_of(c);
}

/* Give the oldest arrival that waits, if any, what has just become free. */
static void serve_waiting(void) {
    if (!waiting_count) return;
    struct arrival first = waiting[waiting_first];
    waiting_first = (waiting_first + 1) % connection_count;
    waiting_count--;
    arrive(first.stream, first.meant);
}

static void lose(struct connection *c) {
    struct stream *stream = c->stream;
    stream->broken++;
    shut(c);
    serve_waiting();
    double t = now();
    if (stream->clients && t < end_time) arrive(stream, t);
}

static void push(struct connection *c) {
    while (c->offset < c->request->length) {
        ssize_t sent = send(c->fd, c->request->bytes + c->offset, c->request->length - c->offset, MSG_NOSIGNAL);
        if (sent < 0) {
            if (errno == EAGAIN || errno == ENOTCONN) listen_for(c, EPOLLIN | EPOLLOUT);
            else lose(c);
            return;
        }
        c->offset += (size_t)sent;
    }
    c->state = READING;
    listen_for(c, EPOLLIN);
}

static bool open_socket(struct connection *c) {
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (c->fd < 0) die("socket");
    int on = 1;
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    struct epoll_event event = {.events = EPOLLIN | EPOLLOUT, .data.ptr = c};
    if (epoll_ctl(poller, EPOLL_CTL_ADD, c->fd, &event) < 0) die("epoll_ctl");
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (connect(c->fd, (struct sockaddr *)&address, sizeof address) == 0 || errno == EINPROGRESS) return true;
    close(c->fd);
    return false;
}

static void arrive(struct stream *stream, double meant) {
    struct connection *c;
    if (idle_count) {
        c = &connections[idle[--idle_count]];
    } else if (closed_count) {
        c = &connections[closed[--closed_count]];
        if (!open_socket(c)) {
            closed[closed_count++] = index_of(c);
            stream->broken++;
            return;
        }
    } else if (waiting_count < connection_count) {
        waiting[(waiting_first + waiting_count++) % connection_count] = (struct arrival){stream, meant};
        return;
    } else {
        stream->unsent++;
        return;
    }
    c->stream = stream;
    c->request = &stream->requests[stream->turn++ % stream->request_count];
    c->offset = c->head_length = 0;
    c->in_body = c->ends_with_connection = c->closes = false;
    c->meant = meant;
    c->state = SENDING;
    busy_count++;
    stream->sent++;
    push(c);
}

/* ---- answers ---- */

static void finish(struct connection *c) {
    struct stream *stream = c->stream;
    double t = now(), latency = t - c->meant;
    last_answer = t;
    stream->statuses[c->status]++;
    if (c->status == 200) {
        keep(&stream->answers, latency);
        if (latency <= stream->deadline) stream->in_deadline++;
    } else {
        keep(&stream->refusals, latency);
    }
    if (c->closes || c->offset < c->request->length) {  /* or answered before it had been asked */
        shut(c);
    } else {
        busy_count--;
        c->state = IDLE;
        idle[idle_count++] = index_of(c);
    }
    serve_waiting();
    if (stream->clients && t < end_time) arrive(stream, t);
}

/* Read the head of an answer. Returns false where it is not one that we understand. */
static bool read_head(struct connection *c, const char *end) {
    if (strncmp(c->head, "HTTP/1.", 7) || c->head_length < 13) return false;
    c->status = atoi(c->head + 9);
    if (c->status < 200 || c->status >= MAX_STATUS) return false;
    long length = -1;
    for (char *line = strstr(c->head, "\r\n"); line && line < end; line = strstr(line + 2, "\r\n")) {
        if (!strncasecmp(line + 2, "content-length:", 15)) length = atol(line + 17);
        if (!strncasecmp(line + 2, "connection: close", 17)) c->closes = true;
        if (!strncasecmp(line + 2, "transfer-encoding:", 18)) return false;
    }
    c->ends_with_connection = length < 0;
    c->closes |= c->ends_with_connection;
    c->body_left = length;
    c->in_body = true;
    return true;
}

static void take(struct connection *c, const char *bytes, size_t count) {
    if (!c->in_body) {
        size_t room = HEAD_BYTES - 1 - c->head_length, part = count < room ? count : room;
        memcpy(c->head + c->head_length, bytes, part);
        c->head_length += part;
        c->head[c->head_length] = 0;
        char *end = strstr(c->head, "\r\n\r\n");
        if (!end) {
            if (part < count) lose(c);
            return;
        }
        size_t in_head = c->head_length - (size_t)(end + 4 - c->head) + (count - part);
        if (!read_head(c, end)) { lose(c); return; }
        count = in_head;
    }
    c->body_left -= (long)count;
    if (!c->ends_with_connection && c->body_left <= 0) finish(c);
}

static void pull(struct connection *c) {
    char bytes[CHUNK_BYTES];
    while (c->state != CLOSED) {
        ssize_t count = recv(c->fd, bytes, sizeof bytes, 0);
        if (count < 0 && errno == EAGAIN) return;
        if (count <= 0) {
            if (c->state == IDLE) { shut(c); serve_waiting(); }
            else if (c->in_body && c->ends_with_connection) finish(c);
            else lose(c);
            return;
        }
        if (c->state == IDLE) { shut(c); return; }  /* an answer that nobody asked for */
        take(c, bytes, (size_t)count);
        if (count < (ssize_t)sizeof bytes) return;
    }
}

/* ---- set-up and report ---- */

static void read_requests(struct stream *stream, const char *path) {
    FILE *file = fopen(path, "rb");
    if (!file) die(path);
    uint32_t length;
    while (fread(&length, sizeof length, 1, file) == 1) {
        stream->requests = realloc(stream->requests, (stream->request_count + 1) * sizeof(struct request));
        if (!stream->requests) die("no memory");
        struct request *request = &stream->requests[stream->request_count++];
        request->bytes = allocate(length, 1);
        request->length = length;
        if (fread(request->bytes, 1, length, file) != length) die("a file of requests is cut off");
    }
    fclose(file);
    if (!stream->request_count) die("a file of requests is empty");
}

static void read_stream(struct stream *stream, char *text, uint64_t seed) {
    char *path = strtok(text, ","), *part;
    if (!path) die("a stream has no file");
    read_requests(stream, path);
    stream->random = seed;
    stream->turn = draw(stream) >> 32;
    stream->deadline = INFINITY;
    while ((part = strtok(NULL, ","))) {
        if (!strncmp(part, "rate=", 5)) stream->rate = atof(part + 5);
        else if (!strncmp(part, "clients=", 8)) stream->clients = atoi(part + 8);
        else if (!strncmp(part, "deadline=", 9)) stream->deadline = atof(part + 9) / 1e3;
        else die("a stream has an unknown part");
    }
    if ((stream->rate > 0) == (stream->clients > 0)) die("a stream needs a rate or a number of clients");
}

static int by_size(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void print_numbers(const char *name, struct numbers *numbers) {
    static const struct { const char *name; double share; } quantiles[] = {
        {"p50", .5}, {"p90", .9}, {"p99", .99}, {"p99.9", .999}, {"max", 1}};
    qsort(numbers->values, numbers->count, sizeof(double), by_size);
    printf(",\"%s\":{", name);
    double sum = 0;
    for (size_t i = 0; i < numbers->count; i++) sum += numbers->values[i];
    for (size_t i = 0; numbers->count && i < sizeof quantiles / sizeof *quantiles; i++) {
        size_t at = (size_t)ceil(quantiles[i].share * (double)(numbers->count - 1) - 1e-9);
        printf("\"%s\":%.6f,", quantiles[i].name, numbers->values[at] * 1e3);
    }
    if (numbers->count) printf("\"mean\":%.6f", sum / (double)numbers->count * 1e3);
    printf("}");
}

static void print_stream(struct stream *s) {
    printf("{\"arrivals\":%ld,\"sent\":%ld,\"in_deadline\":%ld,\"broken\":%ld,\"unanswered\":%ld,\"unsent\":%ld,"
           "\"statuses\":{", s->arrivals, s->sent, s->in_deadline, s->broken, s->unanswered, s->unsent);
    const char *comma = "";
    for (int i = 0; i < MAX_STATUS; i++)
        if (s->statuses[i]) { printf("%s\"%d\":%ld", comma, i, s->statuses[i]); comma = ","; }
    printf("}");
    print_numbers("latency_ms", &s->answers);
    print_numbers("refusal_ms", &s->refusals);
    print_numbers("lag_ms", &s->lags);
    printf("}");
}

static void set_timer(double when) {
    struct itimerspec spec = {.it_value = {(time_t)when, (long)((when - floor(when)) * 1e9)}};
    if (!spec.it_value.tv_sec && !spec.it_value.tv_nsec) spec.it_value.tv_nsec = 1;
    if (timerfd_settime(timer, TFD_TIMER_ABSTIME, &spec, NULL) < 0) die("timerfd_settime");
}

/* Let everything leave whose moment has come. Returns when the next thing does, or the end. */
static double let_leave(struct stream *streams, int count) {
    double soonest = end_time;
    for (int i = 0; i < count; i++) {
        struct stream *s = &streams[i];
        while (s->rate > 0 && s->next < end_time) {
            double t = now();
            if (s->next > t) break;
            s->arrivals++;
            keep(&s->lags, t - s->next);
            arrive(s, s->next);
            s->next += draw_gap(s);
        }
        if (s->rate > 0 && s->next < soonest) soonest = s->next;
    }
    return soonest;
}

int main(int argc, char **argv) {
    if (argc < 7) die("openloop PORT SECONDS SEED CONNECTIONS PATIENCE STREAM...");
    port = atoi(argv[1]);
    double seconds = atof(argv[2]), patience = atof(argv[5]);
    uint64_t seed = strtoull(argv[3], NULL, 10);
    connection_count = atoi(argv[4]);
    if (port <= 0 || seconds <= 0 || connection_count <= 0) die("PORT, SECONDS and CONNECTIONS must be above 0");
    int stream_count = argc - 6;
    struct stream *streams = allocate((size_t)stream_count, sizeof *streams);
    for (int i = 0; i < stream_count; i++)
        read_stream(&streams[i], argv[6 + i], seed * 1000003u + (uint64_t)i);
    connections = allocate((size_t)connection_count, sizeof *connections);
    idle = allocate((size_t)connection_count, sizeof *idle);
    closed = allocate((size_t)connection_count, sizeof *closed);
    waiting = allocate((size_t)connection_count, sizeof *waiting);
    while (closed_count < connection_count) { closed[closed_count] = closed_count; closed_count++; }
    poller = epoll_create1(EPOLL_CLOEXEC);
    timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = NULL};
    if (poller < 0 || timer < 0 || epoll_ctl(poller, EPOLL_CTL_ADD, timer, &event) < 0) die("epoll");

    double begin = now();
    end_time = begin + seconds;
    for (int i = 0; i < stream_count; i++) {
        if (streams[i].rate > 0) streams[i].next = begin + draw_gap(&streams[i]);
        for (int k = 0; k < streams[i].clients; k++) arrive(&streams[i], now());
    }
    struct epoll_event events[MAX_EVENTS];
    for (;;) {
        double soonest = let_leave(streams, stream_count), t = now();
        if (t >= end_time) {
            if ((!busy_count && !waiting_count) || t >= end_time + patience) break;
            soonest = end_time + patience;
        }
        set_timer(soonest);
        int ready = epoll_wait(poller, events, MAX_EVENTS, 100);
        if (ready < 0 && errno != EINTR) die("epoll_wait");
        for (int i = 0; i < ready; i++) {
            struct connection *c = events[i].data.ptr;
            if (!c) {
                uint64_t ticks;
                if (read(timer, &ticks, sizeof ticks) < 0 && errno != EAGAIN) die("timer");
                continue;
            }
            if (c->state == CLOSED) continue;
            if (c->state == SENDING && events[i].events & EPOLLOUT) push(c);
            if (c->state != CLOSED && events[i].events & (EPOLLIN | EPOLLERR | EPOLLHUP)) pull(c);
        }
    }
    for (int i = 0; i < connection_count; i++)
        if (connections[i].state == SENDING || connections[i].state == READING) connections[i].stream->unanswered++;
    while (waiting_count) {
        waiting[(waiting_first + --waiting_count) % connection_count].stream->unsent++;
    }
    printf("{\"seconds\":%.6f,\"until_last_answer\":%.6f,\"streams\":[", seconds,
           last_answer > begin ? last_answer - begin : seconds);
    for (int i = 0; i < stream_count; i++) { if (i) printf(","); print_stream(&streams[i]); }
    printf("]}\n");
    return 0;
}
