/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * One system call over and over, with nothing around it, not even a C library: what a program adds
 * to a call would hide what is added by a hook or a monitor. Called with what (see one_of), calls of a
 * batch, batches, and a file, a program or a place of loopback; with nothing it is a program that ends
 * at once. A place is a port of 127.0.0.1, or 65536 x N and a port of 127.0.0.N; what is sent there is
 * received from the socket that standard input is.
 */
#include <asm/unistd.h>

#define REQUEST 128
#define BATCHES 4096
#define DGRAM 2
#define STREAM 1
#define CLOEXEC 02000000
#define DONTWAIT 0x40

static long call6(long number, long a, long b, long c, long d, long e, long f)
{
	register long r10 asm("r10") = d, r8 asm("r8") = e, r9 asm("r9") = f;
	long result;

	asm volatile("syscall"
		     : "=a"(result)
		     : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
		     : "rcx", "r11", "memory");
	return result;
}

static long call(long number, long a, long b, long c, long d)
{
	return call6(number, a, b, c, d, 0, 0);
}

static long number_of(const char *text)
{
	long number = 0;

	while (*text)
		number = 10 * number + *text++ - '0';
	return number;
}

static long now(void)
{
	long at[2] = { 0, 0 };

	call(__NR_clock_gettime, 1 /* CLOCK_MONOTONIC */, (long)at, 0, 0);
	return at[0] * 1000000000 + at[1];
}

struct name {
	unsigned short family, port;
	unsigned int address;
	char zero[8];
};

static struct name loopback(long place)
{
	unsigned int last = place >> 16 ? place >> 16 : 1;
	struct name name = { 2 /* AF_INET */, __builtin_bswap16(place), last << 24 | 0x7f, { 0 } };

	return name;
}

/* A socket of loopback that answers what it is sent, in a process that ends with it; or -1. */
static long answered(void)
{
	struct name name = loopback(0);
	long listener = call(__NR_socket, 2, STREAM, 0, 0), one, length = sizeof(name), got;
	char text[REQUEST];

	call(__NR_bind, listener, (long)&name, sizeof(name), 0);
	call(__NR_getsockname, listener, (long)&name, (long)&length, 0);
	call(__NR_listen, listener, 1, 0, 0);
	one = call(__NR_socket, 2, STREAM, 0, 0);
	if (call(__NR_connect, one, (long)&name, sizeof(name), 0))
		return -1;
	if (call(__NR_fork, 0, 0, 0, 0))
		return one;
	call(__NR_close, one, 0, 0, 0);
	one = call(__NR_accept, listener, 0, 0, 0);
	while ((got = call(__NR_read, one, (long)text, sizeof(text), 0)) > 0)
		call(__NR_write, one, (long)text, got, 0);
	call(__NR_exit_group, 0, 0, 0, 0);
	__builtin_unreachable();
}

static long request(long file)
{
	char text[REQUEST];

	call(__NR_write, file, (long)text, sizeof(text), 0);
	return call(__NR_read, file, (long)text, sizeof(text), 0);
}

static long open_close(const char *path)
{
	long file = call(__NR_open, (long)path, CLOEXEC, 0, 0);

	if (file >= 0)
		call(__NR_close, file, 0, 0, 0);
	return file;
}

static long stat_open(const char *path)
{
	long facts[18];

	call(__NR_stat, (long)path, (long)facts, 0, 0);
	return open_close(path);
}

/* What execve(2) answered, or 0. */
static long execute(const char *path)
{
	const char *argv[] = { path, 0 };
	long child = call(__NR_fork, 0, 0, 0, 0), status = 0;

	if (!child)
		call(__NR_exit_group, -call(__NR_execve, (long)path, (long)argv, 0, 0), 0, 0, 0);
	call(__NR_wait4, child, (long)&status, 0, 0);
	return -(status >> 8 & 255);
}

/* To a port that is closed: the connection is refused, and nobody has to answer. */
static long connect_close(struct name *name)
{
	long one = call(__NR_socket, 2, STREAM | CLOEXEC, 0, 0);
	long result = call(__NR_connect, one, (long)name, sizeof(*name), 0);

	call(__NR_close, one, 0, 0, 0);
	return result;
}

static long bind_close(struct name *name)
{
	long one = call(__NR_socket, 2, DGRAM | CLOEXEC, 0, 0);
	long result = call(__NR_bind, one, (long)name, sizeof(*name), 0);

	call(__NR_close, one, 0, 0, 0);
	return result;
}

static long send_receive(long file, struct name *name)
{
	long sent = call6(__NR_sendto, file, (long)"x", 1, 0, (long)name, sizeof(*name));
	char byte;

	if (sent > 0)
		call6(__NR_recvfrom, 0, (long)&byte, 1, DONTWAIT, 0, 0);
	return sent;
}

struct work {
	char what;
	const char *path;
	long file;
	struct name name;
};

static long one_of(struct work *w)
{
	char byte = 'x';

	switch (w->what) {
	case 'g':
		return call(__NR_getppid, 0, 0, 0, 0);
	case 'r':
		return call(__NR_pread64, w->file, (long)&byte, 1, 0);
	case 'w':
		return call(__NR_pwrite64, w->file, (long)&byte, 1, 0);
	case 'n':
		return request(w->file);
	case 'o':
		return open_close(w->path);
	case 's':
		return stat_open(w->path);
	case 'e':
		return execute(w->path);
	case 'c':
		return connect_close(&w->name);
	case 'b':
		return bind_close(&w->name);
	case 'u':
		return send_receive(w->file, &w->name);
	}
	return -1;
}

static void prepare(struct work *w)
{
	if (w->what == 'r' || w->what == 'w')
		w->file = call(__NR_open, (long)w->path, 2 /* O_RDWR */, 0, 0);
	else if (w->what == 'n')
		w->file = answered();
	else if (w->what == 'c' || w->what == 'b' || w->what == 'u')
		w->name = loopback(number_of(w->path));
	if (w->what == 'u')
		w->file = call(__NR_socket, 2, DGRAM | CLOEXEC, 0, 0);
}

/* Tells 8 bytes a figure: what the call answers, then the nanoseconds of each batch. */
static void run(struct work *w, long times, long batches)
{
	static long took[BATCHES];
	long answer, start;

	prepare(w);
	if (w->file < 0 || batches > BATCHES)
		return;
	answer = one_of(w);
	for (long batch = 0; batch < batches; batch++) {
		start = now();
		for (long number = 0; number < times; number++)
			one_of(w);
		took[batch] = now() - start;
	}
	call(__NR_write, 1, (long)&answer, sizeof(answer), 0);
	call(__NR_write, 1, (long)took, batches * sizeof(*took), 0);
}

/* The stack as exec(2) leaves it: argc, argv[]. */
__attribute__((used)) static void begin(long *stack)
{
	char **argv = (char **)(stack + 1);

	if (stack[0] > 4) {
		struct work w = { argv[1][0], argv[4], 0, loopback(0) };

		run(&w, number_of(argv[2]), number_of(argv[3]));
	}
	call(__NR_exit_group, 0, 0, 0, 0);
	__builtin_unreachable();
}

__attribute__((naked, noreturn)) void _start(void)
{
	asm volatile("mov %rsp, %rdi\n\tand $-16, %rsp\n\tcall begin");
}
