/* One small program per case: what a C program sees after bind() under libdeployd_bind.so.
 * Usage: probe CASE PORT|PATH. Prints facts, one a line; the test knows what they should be. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

static int bind4(int fd, const char *host, int port) {
  struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(port)};
  inet_pton(AF_INET, host, &a.sin_addr);
  return bind(fd, (struct sockaddr *)&a, sizeof a);
}
static int bind6(int fd, const char *host, int port) {
  struct sockaddr_in6 a = {.sin6_family = AF_INET6, .sin6_port = htons(port)};
  inet_pton(AF_INET6, host, &a.sin6_addr);
  return bind(fd, (struct sockaddr *)&a, sizeof a);
}
static void show(const char *what, struct sockaddr_storage *s, socklen_t n) {
  char text[64] = "?";
  if (s->ss_family == AF_INET) inet_ntop(AF_INET, &((struct sockaddr_in *)s)->sin_addr, text, sizeof text);
  if (s->ss_family == AF_INET6) inet_ntop(AF_INET6, &((struct sockaddr_in6 *)s)->sin6_addr, text, sizeof text);
  printf("%s %d %s %u\n", what, s->ss_family, text, n);
}
static void names(const char *what, int fd) {
  struct sockaddr_storage s; socklen_t n = sizeof s; int domain = 0; socklen_t dn = sizeof domain;
  char label[64];
  memset(&s, 0, sizeof s);
  snprintf(label, sizeof label, "%s-local", what);
  if (!getsockname(fd, (struct sockaddr *)&s, &n)) show(label, &s, n);
  n = sizeof s; snprintf(label, sizeof label, "%s-peer", what);
  if (!getpeername(fd, (struct sockaddr *)&s, &n)) show(label, &s, n);
  getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &dn);
  printf("%s-domain %d\n", what, domain);
}
/* accept one, say who it is, answer, close */
static void serve(int fd, int loud) {
  struct sockaddr_storage s; socklen_t n = sizeof s;
  int c = accept(fd, (struct sockaddr *)&s, &n);
  if (c < 0) { printf("accept errno %d\n", errno); return; }
  if (loud) { show("accept", &s, n); names("conn", c); int d = dup(c); names("dup", d); close(d); }
  dprintf(c, "pid %d\n", getpid());
  close(c);
}
static void *serve_thread(void *fd) { serve((int)(long)fd, 0); return 0; }

int main(int argc, char **argv) {
  const char *mode = argv[1]; int port = argc > 2 ? atoi(argv[2]) : 0; int one = 1, zero = 0;
  setvbuf(stdout, 0, _IOLBF, 0);
  if (!strcmp(mode, "inet") || !strcmp(mode, "inet6")) {
    int v6 = !strcmp(mode, "inet6"), fd = socket(v6 ? AF_INET6 : AF_INET, SOCK_STREAM, 0);
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    printf("bind %d\n", v6 ? bind6(fd, "::", port) : bind4(fd, "0.0.0.0", port));
    printf("listen %d\n", listen(fd, 5));
    if (v6) printf("v6only %d\n", setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &one, sizeof one));
    names("listener", fd);
    int nodelay = 0; socklen_t n = sizeof nodelay; getsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &nodelay, &n);
    printf("nodelay %d\n", nodelay);
    puts("ready");
    serve(fd, 1); serve(fd, 1);
  } else if (!strcmp(mode, "short")) { /* an address buffer that is too small, and none at all */
    int fd = socket(AF_INET, SOCK_STREAM, 0); bind4(fd, "0.0.0.0", port); listen(fd, 5);
    char buffer[32]; memset(buffer, 'x', sizeof buffer); socklen_t n = 4;
    puts("ready");
    int c = accept(fd, (struct sockaddr *)buffer, &n);
    printf("short %u %c %c\n", n, buffer[3] == 'x' ? 'x' : '.', buffer[4]);
    close(c); c = accept(fd, 0, 0); printf("null %d\n", c > 0); close(c);
  } else if (!strcmp(mode, "backlog")) {
    int fd = socket(AF_INET6, SOCK_STREAM, 0); bind6(fd, "::", port);
    for (int i = 0, asked[] = {5, 2000}; i < 2; i++) {
      struct tcp_info info; socklen_t n = sizeof info;
      listen(fd, asked[i]); getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &n);
      printf("backlog %u\n", info.tcpi_sacked);
    }
  } else if (!strcmp(mode, "flags")) {
    int kinds[] = {SOCK_NONBLOCK | SOCK_CLOEXEC, 0, SOCK_NONBLOCK, SOCK_CLOEXEC};
    for (int i = 0; i < 4; i++) {
      int fd = socket(AF_INET6, SOCK_STREAM | kinds[i], 0); bind6(fd, "::", port);
      printf("nonblock %d cloexec %d\n", !!(fcntl(fd, F_GETFL) & O_NONBLOCK), fcntl(fd, F_GETFD) & FD_CLOEXEC);
      close(fd);
    }
  } else if (!strcmp(mode, "reuseport")) {
    pthread_t t[3];
    for (long i = 0; i < 3; i++) {
      int fd = socket(AF_INET, SOCK_STREAM, 0);
      setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &one, sizeof one);
      printf("bind %d\n", bind4(fd, "0.0.0.0", port)); listen(fd, 5);
      printf("detach %d\n", setsockopt(fd, SOL_SOCKET, SO_DETACH_REUSEPORT_BPF, &zero, sizeof zero));
      pthread_create(&t[i], 0, serve_thread, (void *)(long)fd);
    }
    puts("ready");
    for (int i = 0; i < 3; i++) pthread_join(t[i], 0);
  } else if (!strcmp(mode, "fork")) {
    int fd = socket(AF_INET, SOCK_STREAM, 0); printf("parent %d\n", bind4(fd, "0.0.0.0", port)); listen(fd, 5);
    fflush(stdout);
    if (!fork()) {
      close(fd); fd = socket(AF_INET, SOCK_STREAM, 0);
      printf("child %d\n", bind4(fd, "0.0.0.0", port)); listen(fd, 5); puts("ready");
      serve(fd, 1); exit(0);
    }
    close(fd); wait(0);
  } else if (!strcmp(mode, "children")) {
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0); bind4(fd, "0.0.0.0", port);
    fflush(stdout);
    return system("env | grep -E '^(LD_PRELOAD|DEPLOYD_BIND|LISTEN_)'; for f in /proc/self/fd/*; do readlink $f; done | grep socket; echo end");
  } else if (!strcmp(mode, "environment")) { /* without a bind() */
    return system("env | grep -E '^(LD_PRELOAD|DEPLOYD_BIND|LISTEN_)'; echo end");
  } else if (!strcmp(mode, "refuse")) {
    for (int i = 0; i < 2; i++) { /* the line comes once */
      int fd = socket(AF_INET, SOCK_STREAM, 0); int r = bind4(fd, "127.0.0.1", port);
      printf("bind %d %s\n", r, r ? strerrorname_np(errno) : "");
    }
    int fd = socket(AF_INET6, SOCK_STREAM, 0); int r = bind6(fd, "::1", port);
    printf("bind %d %s\n", r, r ? strerrorname_np(errno) : "");
  } else if (!strcmp(mode, "others")) {
    int fd = socket(AF_INET, SOCK_STREAM, 0); printf("zero %d\n", bind4(fd, "127.0.0.1", 0));
    struct sockaddr_in a; socklen_t n = sizeof a; getsockname(fd, (struct sockaddr *)&a, &n);
    printf("other-port %d family %d\n", ntohs(a.sin_port) != port, a.sin_family);
    int udp = socket(AF_INET, SOCK_DGRAM, 0); printf("udp %d\n", bind4(udp, "127.0.0.1", port));
    int bad = bind4(-1, "0.0.0.0", port); printf("bad %d %s\n", bad, strerrorname_np(errno));
    bad = bind(fd, 0, 0); printf("null %d\n", bad);
  } else if (!strcmp(mode, "both")) { /* one socket per family on one port, as many servers open */
    int four = socket(AF_INET, SOCK_STREAM, 0), six = socket(AF_INET6, SOCK_STREAM, 0);
    setsockopt(six, IPPROTO_IPV6, IPV6_V6ONLY, &one, sizeof one);
    printf("bind %d %d\n", bind4(four, "0.0.0.0", port), bind6(six, "::", port));
    listen(four, 5); listen(six, 5); puts("ready");
    serve(four, 1); serve(six, 1);
  } else if (!strcmp(mode, "unix")) {
    struct sockaddr_un a = {.sun_family = AF_UNIX}; strcpy(a.sun_path, argv[2]);
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    printf("unlink %d\n", unlink(argv[2]));
    printf("bind %d\n", bind(fd, (struct sockaddr *)&a, sizeof a));
    printf("listen %d\n", listen(fd, 5)); puts("ready");
    int c = accept(fd, 0, 0); dprintf(c, "pid %d\n", getpid()); close(c);
    printf("remove %d\n", remove(argv[2]));
  } else if (!strcmp(mode, "closed")) { /* the passed descriptor is gone: as without the library */
    close(3);
    int fd = socket(AF_INET, SOCK_STREAM, 0); int r = bind4(fd, "0.0.0.0", port);
    printf("bind %d %s\n", r, r ? strerrorname_np(errno) : "");
  } else if (!strcmp(mode, "plain")) { /* for the static build */
    int fd = socket(AF_INET, SOCK_STREAM, 0); int r = bind4(fd, "0.0.0.0", port);
    printf("bind %d %d\n", r, r ? errno == EADDRINUSE : 0);
  }
  return 0;
}
