/*
 * The floor: what reading the neighbour table, and deleting what is idle in it,
 * costs where nothing but netlink is in the way. One reused buffer, no
 * allocation, no library.
 *
 * For each line on standard input it does its work once and prints the CPU time
 * that took, in nanoseconds, and the number of entries it dealt with:
 *
 *   floor dump    reads the table
 *   floor renew   deletes what is idle in it
 *   floor paced   so as well, but waits after each batch as the agent does
 *   floor wake    nothing at all, but it has woken up every 2 s since the line before
 */
#include <linux/neighbour.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum {
	BUFFER = 32 << 10, /* as much as the kernel fills in one read of a dump */
	BATCH = 150,       /* deletions in one send */
	DELETE = 64,       /* bytes of one deletion, at most */
	PAUSE = 10000,     /* microseconds, for 200 deletions */
	WAKE = 2000,       /* milliseconds: the agent's --vip-interval */
};

static char in[BUFFER], reply[BUFFER], out[BATCH * DELETE];
static int out_len, batched, paced;

static void die(const char *what)
{
	perror(what);
	exit(1);
}

static int dial(void)
{
	struct sockaddr_nl kernel = { .nl_family = AF_NETLINK };
	int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);

	if (fd < 0 || connect(fd, (struct sockaddr *)&kernel, sizeof(kernel)) < 0)
		die("netlink socket");
	return fd;
}

/* flush sends the deletions collected so far and waits for their acknowledgement. */
static void flush(int fd, struct nlmsghdr *last)
{
	if (batched == 0)
		return;
	last->nlmsg_flags |= NLM_F_ACK; /* errors come unasked */
	if (send(fd, out, out_len, 0) < 0)
		die("deleting");
	for (;;) {
		int n = recv(fd, reply, sizeof(reply), 0);
		if (n < 0)
			die("deleting");
		for (struct nlmsghdr *h = (void *)reply; NLMSG_OK(h, n); h = NLMSG_NEXT(h, n))
			if (h->nlmsg_seq == last->nlmsg_seq) {
				if (paced)
					usleep(PAUSE * batched / 200);
				out_len = batched = 0;
				return;
			}
	}
}

/* idle is the whole policy: what `ip neigh flush` has, and less. */
static int idle(const struct ndmsg *nd)
{
	return (nd->ndm_state & (NUD_STALE | NUD_FAILED)) && nd->ndm_flags == 0;
}

static struct nlmsghdr *append_delete(const struct ndmsg *nd, const struct rtattr *dst)
{
	static unsigned int seq;
	struct nlmsghdr *h = (void *)(out + out_len);

	memset(h, 0, NLMSG_LENGTH(sizeof(*nd)));
	h->nlmsg_len = NLMSG_LENGTH(sizeof(*nd)) + RTA_ALIGN(dst->rta_len);
	h->nlmsg_type = RTM_DELNEIGH;
	h->nlmsg_flags = NLM_F_REQUEST;
	h->nlmsg_seq = ++seq;
	*(struct ndmsg *)NLMSG_DATA(h) = (struct ndmsg){ .ndm_family = nd->ndm_family, .ndm_ifindex = nd->ndm_ifindex };
	memcpy((char *)NLMSG_DATA(h) + sizeof(*nd), dst, dst->rta_len);
	out_len += NLMSG_ALIGN(h->nlmsg_len);
	batched++;
	return h;
}

/* dump reads the table and deletes what is idle where del is set. */
static long dump(int fd, int del_fd, int del)
{
	struct {
		struct nlmsghdr h;
		struct ndmsg nd;
	} req = { { sizeof(req), RTM_GETNEIGH, NLM_F_REQUEST | NLM_F_DUMP, 1, 0 }, { 0 } };
	struct nlmsghdr *last = NULL;
	long seen = 0;

	if (send(fd, &req, sizeof(req), 0) < 0)
		die("dumping");
	for (;;) {
		int n = recv(fd, in, sizeof(in), 0);
		if (n < 0)
			die("dumping");
		for (struct nlmsghdr *h = (void *)in; NLMSG_OK(h, n); h = NLMSG_NEXT(h, n)) {
			struct rtattr *dst = NULL;
			struct ndmsg *nd = NLMSG_DATA(h);
			int left = h->nlmsg_len - NLMSG_LENGTH(sizeof(*nd));

			if (h->nlmsg_type == NLMSG_DONE) {
				flush(del_fd, last);
				return seen;
			}
			for (struct rtattr *a = (void *)(nd + 1); RTA_OK(a, left); a = RTA_NEXT(a, left))
				if (a->rta_type == NDA_DST)
					dst = a;
			if (h->nlmsg_type != RTM_NEWNEIGH || !dst)
				continue;
			seen += !del;
			if (del && idle(nd)) {
				last = append_delete(nd, dst);
				seen++;
				if (batched == BATCH)
					flush(del_fd, last);
			}
		}
	}
}

static long long cpu(void)
{
	struct timespec t;

	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
	return t.tv_sec * 1000000000LL + t.tv_nsec;
}

/* wake shows what it costs on this machine to be woken up. */
static int wake(void)
{
	struct pollfd in = {.fd = STDIN_FILENO, .events = POLLIN};
	char line[16];
	long long before = cpu();

	for (;;) {
		int ready = poll(&in, 1, WAKE);

		if (ready < 0)
			die("waiting");
		if (!ready)
			continue;
		if (read(STDIN_FILENO, line, sizeof(line)) <= 0)
			return 0;
		printf("%lld 1\n", cpu() - before);
		fflush(stdout);
		before = cpu();
	}
}

int main(int argc, char **argv)
{
	if (argc > 1 && !strcmp(argv[1], "wake"))
		return wake();

	int fd = dial(), del_fd = dial(), del = argc > 1 && strcmp(argv[1], "dump");
	char line[16];

	paced = argc > 1 && !strcmp(argv[1], "paced");

	while (fgets(line, sizeof(line), stdin)) {
		long long before = cpu();
		long seen = dump(fd, del_fd, del);
		printf("%lld %ld\n", cpu() - before, seen);
		fflush(stdout);
	}
	return 0;
}
