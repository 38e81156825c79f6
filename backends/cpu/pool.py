"""The worker pool: LLVM IR text of ``parallel``, which kernels call to share out a range.

One pool serves the process. Its state is ``STATE_BYTES`` of zeroed memory of its own pages,
never freed, wiped in a forked child (all zeros is a pool without workers, so a child starts
afresh). A region is one job:

    void parallel(ptr ctx, ptr fn, ptr env, i64 n, i64 rows)

runs ``fn(env, begin, end)`` over 0 .. n. The iterations are rounds of ``rows``, one after the
other, and the pool has two hands, or two groups of hands: one goes through the first half of every
round, the other through the second. What is no number of rounds, or rounds of one, is one round.

The caller publishes the job, works on it like everybody else, and returns when every chunk is
done. It never waits for a worker to come: on a busy machine it finishes the job alone.

Why this is right. The word ``work`` packs ``slots`` (workers that may still join, the highest 12
bits) and the chunks not yet claimed, as two ranges of 13 bits for each of their ends: those left
of the first half, and those left of the second half.

- A chunk is claimed by a compare-and-swap that moves one end of a range by one, never past the
  other. The caller and every second worker go through the first half, chunk after chunk as they
  lie, the others through the second one; who has finished a half takes the last chunk of the
  other. So who works on the first rows of one job does so in the next one, too, whose operands
  are then in its own cache: what the other hand has written comes no faster than from memory.
  The descriptor (fn, env, and how the range is cut) is read only after a claim succeeded. A job
  cannot end before each claimed chunk is reported in ``completed``, and the next job is not
  published before this one ended; so whoever holds an unreported chunk reads the descriptor of
  the job that the chunk belongs to, and env is alive. A worker reports once, after its last chunk.
- A worker that comes late sees two empty ranges and touches nothing. One that read ``work``
  during an old job and swaps during a new one fails, or, if the two words happen to be equal,
  holds a good chunk of the new job, whose descriptor it then reads.
- The swap acquires what the publisher released by storing ``work`` (later swaps are
  read-modify-writes, so they carry that release on). ``completed`` is added to and read with
  sequential consistency, so the caller sees all the writes of the workers.
- Sleep cannot miss a job: a worker reads ``epoch`` before it looks for work and sleeps only
  while ``epoch`` still has that value (the kernel compares under its own lock); the publisher
  changes ``work``, then ``epoch``, then looks at ``sleepers``, which the worker raised before
  it slept. One of the two sees the other. Were a wake-up lost, the caller would still finish.
  ``waiting`` and ``completed`` are the same pattern with the roles exchanged.
- A half of many iterations is cut in 16 slices for each of its hands, which differ by at most one.
  Three quarters of them are claimed four by four, the last one by one: hands that are not
  equally fast finish nearly together, and there are few claims. A shorter half is cut in seven
  chunks for each of its hands, or one for each iteration. A chunk that reaches into the next
  round is run in pieces.
- The caller holds ``busy`` from before publishing until after the end. Who finds it taken
  (another Python thread, or a region inside a region) runs its range inline.

The spin of 100,000 time stamp ticks is 20 to 50 us on machines of 2 to 5 GHz. It is counted in
time, not in ``pause`` instructions, whose length differs tenfold between processors.
"""

from __future__ import annotations

STATE_BYTES = 4096
"""Size of the pool's state: one page, zeroed, wiped on fork."""

SYMBOL = "tilewright_parallel"
"""The name that the module exports; the first field of a program's context points to it."""

CONTEXT_FIELDS = ("parallel", "pool", "threads")
"""The context that programs and kernels are given: ``{ptr, ptr, i64}`` in this order."""

TEXT = """\
; What each field means, and why the orderings suffice: see the module's docstring.
%context = type { ptr, ptr, i64 }
%pool = type {
  i64, [56 x i8],                    ; 0: work: slots, and four ends of chunks
  i32, [60 x i8],                    ; 2: epoch (futex), raised at each job
  i32, [60 x i8],                    ; 4: sleepers
  i32, i32, [56 x i8],               ; 6: completed (futex)   7: waiting
  i32, i32, i32, [52 x i8],          ; 9: busy   10: workers   11: full (no more threads to get)
  ptr, ptr, i64, i32, i32,           ; 13: fn   14: env   15: rows   16: workers that have begun
  %half, %half                       ; 18, 19: how the halves are cut
}
%half = type {
  i64, i64,                          ; 0: rows of a round   1: the first of them
  i64, i64,                          ; 2: iterations of a slice   3: how many slices have one more
  i64, i64                           ; 4: chunks of four slices   5: number of the first chunk
}

@name = private constant [11 x i8] c"tilewright\\00"

declare i32 @pthread_create(ptr, ptr, ptr, ptr)
declare i32 @pthread_detach(i64)
declare i32 @pthread_sigmask(i32, ptr, ptr)
declare i32 @prctl(i32, ...)
declare i64 @syscall(i64, ...)
declare void @llvm.x86.sse2.pause()
declare i64 @llvm.readcyclecounter()
declare i64 @llvm.umin.i64(i64, i64)
declare i64 @llvm.smin.i64(i64, i64)

; Sleeps while *word == value (or until a spurious wake-up: callers look again).
define internal void @futex_wait(ptr %word, i32 %value) {
  %r = call i64 (i64, ...) @syscall(i64 202, ptr %word, i32 128, i32 %value,
                                    ptr null, ptr null, i32 0)
  ret void
}

define internal void @futex_wake(ptr %word, i32 %count) {
  %r = call i64 (i64, ...) @syscall(i64 202, ptr %word, i32 129, i32 %count,
                                    ptr null, ptr null, i32 0)
  ret void
}

; Claims a chunk: the next one of the half that is the caller's own (the second one if %second), or
; the last one that is left of the other. %slot is 0, or 1 << 52 for a worker that is joining and
; must find a slot. Returns 1 more than the chunk's number, or 0 if there is none.
define internal i64 @claim(ptr %pool, i64 %slot, i1 %second) {
entry:
  %first = load atomic i64, ptr %pool monotonic, align 64
  br label %try
try:
  %w = phi i64 [ %first, %entry ], [ %seen, %swap ]
  %w1 = lshr i64 %w, 13
  %w2 = lshr i64 %w, 26
  %w3 = lshr i64 %w, 39
  %begin0 = and i64 %w, 8191
  %end0 = and i64 %w1, 8191
  %begin1 = and i64 %w2, 8191
  %end1 = and i64 %w3, 8191
  %has0 = icmp ult i64 %begin0, %end0
  %has1 = icmp ult i64 %begin1, %end1
  %left = or i1 %has0, %has1
  %free = icmp uge i64 %w, %slot
  %may = and i1 %left, %free
  br i1 %may, label %swap, label %none
swap:
  %own = select i1 %second, i1 %has1, i1 %has0
  %forward = select i1 %second, i64 67108864, i64 1
  %backward = select i1 %second, i64 -8192, i64 -549755813888
  %step = select i1 %own, i64 %forward, i64 %backward
  %minus = sub i64 %w, %slot
  %new = add i64 %minus, %step
  %pair = cmpxchg ptr %pool, i64 %w, i64 %new acquire monotonic, align 64
  %seen = extractvalue { i64, i1 } %pair, 0
  %ok = extractvalue { i64, i1 } %pair, 1
  br i1 %ok, label %got, label %try
got:
  %begin = select i1 %second, i64 %begin1, i64 %begin0
  %after.begin = add i64 %begin, 1
  %other.end = select i1 %second, i64 %end0, i64 %end1
  %number = select i1 %own, i64 %after.begin, i64 %other.end
  ret i64 %number
none:
  ret i64 0
}

; Works on the job that the claimed chunk belongs to until no chunk remains, then reports.
; Returns the new value of completed.
define internal i32 @share(ptr %pool, i64 %claimed, i1 %second) {
entry:
  %fn.p = getelementptr %pool, ptr %pool, i64 0, i32 13
  %env.p = getelementptr %pool, ptr %pool, i64 0, i32 14
  %round.p = getelementptr %pool, ptr %pool, i64 0, i32 15
  %half0 = getelementptr %pool, ptr %pool, i64 0, i32 18
  %half1 = getelementptr %pool, ptr %pool, i64 0, i32 19
  %chunks0.p = getelementptr %half, ptr %half1, i64 0, i32 5
  %fn = load ptr, ptr %fn.p
  %env = load ptr, ptr %env.p
  %round = load i64, ptr %round.p
  %chunks0 = load i64, ptr %chunks0.p
  br label %run
run:
  %one.more = phi i64 [ %claimed, %entry ], [ %next, %ran ]
  %count = phi i32 [ 0, %entry ], [ %count1, %ran ]
  %index = sub i64 %one.more, 1
  %is.second = icmp uge i64 %index, %chunks0
  %half = select i1 %is.second, ptr %half1, ptr %half0
  %first.p = getelementptr %half, ptr %half, i64 0, i32 1
  %size.p = getelementptr %half, ptr %half, i64 0, i32 2
  %longer.p = getelementptr %half, ptr %half, i64 0, i32 3
  %coarse.p = getelementptr %half, ptr %half, i64 0, i32 4
  %start.p = getelementptr %half, ptr %half, i64 0, i32 5
  %rows = load i64, ptr %half
  %first = load i64, ptr %first.p
  %size = load i64, ptr %size.p
  %longer = load i64, ptr %longer.p
  %coarse = load i64, ptr %coarse.p
  %start = load i64, ptr %start.p
  ; Each of the coarse chunks, which are the first ones, is four slices.
  %local = sub i64 %index, %start
  %before = call i64 @llvm.umin.i64(i64 %local, i64 %coarse)
  %before.more = mul i64 %before, 3
  %slice = add i64 %local, %before.more
  %is.coarse = icmp ult i64 %local, %coarse
  %count.slices = select i1 %is.coarse, i64 4, i64 1
  %slice.end = add i64 %slice, %count.slices
  %begin.whole = mul i64 %slice, %size
  %begin.extra = call i64 @llvm.umin.i64(i64 %slice, i64 %longer)
  %begin = add i64 %begin.whole, %begin.extra
  %end.whole = mul i64 %slice.end, %size
  %end.extra = call i64 @llvm.umin.i64(i64 %slice.end, i64 %longer)
  %end = add i64 %end.whole, %end.extra
  br label %piece
piece:
  ; From the half's own count to that of the range.
  %at = phi i64 [ %begin, %run ], [ %at1, %piece ]
  %number = udiv i64 %at, %rows
  %number.rows = mul i64 %number, %rows
  %row = sub i64 %at, %number.rows
  %room = sub i64 %rows, %row
  %left = sub i64 %end, %at
  %length = call i64 @llvm.umin.i64(i64 %left, i64 %room)
  %round.start = mul i64 %number, %round
  %half.start = add i64 %round.start, %first
  %from = add i64 %half.start, %row
  %to = add i64 %from, %length
  call void %fn(ptr %env, i64 %from, i64 %to)
  %at1 = add i64 %at, %length
  %rest = icmp ult i64 %at1, %end
  br i1 %rest, label %piece, label %ran
ran:
  %count1 = add i32 %count, 1
  %next = call i64 @claim(ptr %pool, i64 0, i1 %second)
  %more = icmp ne i64 %next, 0
  br i1 %more, label %run, label %report
report:
  %completed.p = getelementptr %pool, ptr %pool, i64 0, i32 6
  %old = atomicrmw add ptr %completed.p, i32 %count1 seq_cst, align 64
  %new = add i32 %old, %count1
  ret i32 %new
}

define internal ptr @worker(ptr %pool) {
entry:
  %r = call i32 (i32, ...) @prctl(i32 15, ptr @name, i64 0, i64 0, i64 0)
  %epoch.p = getelementptr %pool, ptr %pool, i64 0, i32 2
  %sleepers.p = getelementptr %pool, ptr %pool, i64 0, i32 4
  %completed.p = getelementptr %pool, ptr %pool, i64 0, i32 6
  %waiting.p = getelementptr %pool, ptr %pool, i64 0, i32 7
  %begun.p = getelementptr %pool, ptr %pool, i64 0, i32 16
  %number = atomicrmw add ptr %begun.p, i32 1 monotonic, align 4
  %odd = and i32 %number, 1
  %second = icmp eq i32 %odd, 0
  br label %look
look:
  %epoch = load atomic i32, ptr %epoch.p seq_cst, align 64
  %claimed = call i64 @claim(ptr %pool, i64 4503599627370496, i1 %second)
  %got = icmp ne i64 %claimed, 0
  br i1 %got, label %work, label %idle
work:
  %done = call i32 @share(ptr %pool, i64 %claimed, i1 %second)
  %waiting = load atomic i32, ptr %waiting.p seq_cst, align 4
  %asleep = icmp ne i32 %waiting, 0
  br i1 %asleep, label %rouse, label %look
rouse:
  call void @futex_wake(ptr %completed.p, i32 1)
  br label %look
idle:
  %start = call i64 @llvm.readcyclecounter()
  br label %spin
spin:
  call void @llvm.x86.sse2.pause()
  %now.epoch = load atomic i32, ptr %epoch.p monotonic, align 64
  %changed = icmp ne i32 %now.epoch, %epoch
  br i1 %changed, label %look, label %still
still:
  %now = call i64 @llvm.readcyclecounter()
  %spent = sub i64 %now, %start
  %over = icmp ugt i64 %spent, 100000
  br i1 %over, label %sleep, label %spin
sleep:
  %s0 = atomicrmw add ptr %sleepers.p, i32 1 seq_cst, align 64
  call void @futex_wait(ptr %epoch.p, i32 %epoch)
  %s1 = atomicrmw sub ptr %sleepers.p, i32 1 seq_cst, align 64
  br label %look
}

; Starts workers until there are %wanted, holding busy. Signals are left to the program's own
; threads (the synchronous ones, bits 3 to 7 and 10, stay deliverable).
define internal void @grow(ptr %pool, i32 %wanted) noinline cold {
entry:
  %mask = alloca [16 x i64], align 8
  %old = alloca [16 x i64], align 8
  %thread = alloca i64, align 8
  %workers.p = getelementptr %pool, ptr %pool, i64 0, i32 10
  %full.p = getelementptr %pool, ptr %pool, i64 0, i32 11
  %full = load i32, ptr %full.p
  %stuck = icmp ne i32 %full, 0
  br i1 %stuck, label %out, label %block
block:
  store [16 x i64] zeroinitializer, ptr %mask
  store i64 -1273, ptr %mask
  %r0 = call i32 @pthread_sigmask(i32 2, ptr %mask, ptr %old)
  br label %next
next:
  %have = load i32, ptr %workers.p
  %need = icmp slt i32 %have, %wanted
  br i1 %need, label %create, label %restore
create:
  %failed = call i32 @pthread_create(ptr %thread, ptr null, ptr @worker, ptr %pool)
  %bad = icmp ne i32 %failed, 0
  br i1 %bad, label %give.up, label %created
created:
  %id = load i64, ptr %thread
  %r1 = call i32 @pthread_detach(i64 %id)
  %have1 = add i32 %have, 1
  store i32 %have1, ptr %workers.p
  br label %next
give.up:
  store i32 1, ptr %full.p
  br label %restore
restore:
  %r2 = call i32 @pthread_sigmask(i32 2, ptr %old, ptr null)
  br label %out
out:
  ret void
}

; Cuts a half of %n iterations for so many hands, of which it has every second one, and %first is
; the number of its first chunk. Returns how many chunks there are.
define internal i64 @cut(ptr %half, i64 %n, i64 %hands, i64 %rows, i64 %row, i64 %first) {
  %rows.p = getelementptr %half, ptr %half, i64 0, i32 0
  %row.p = getelementptr %half, ptr %half, i64 0, i32 1
  %size.p = getelementptr %half, ptr %half, i64 0, i32 2
  %longer.p = getelementptr %half, ptr %half, i64 0, i32 3
  %coarse.p = getelementptr %half, ptr %half, i64 0, i32 4
  %start.p = getelementptr %half, ptr %half, i64 0, i32 5
  %threes = mul i64 %hands, 3
  %threes.up = add i64 %threes, 1
  %large = lshr i64 %threes.up, 1
  %sevens = mul i64 %hands, 7
  %sevens.up = add i64 %sevens, 1
  %most = lshr i64 %sevens.up, 1
  %more.slices = mul i64 %large, 3
  %all.slices = add i64 %most, %more.slices
  %many = icmp uge i64 %n, %all.slices
  %few = call i64 @llvm.umin.i64(i64 %n, i64 %most)
  %chunks = select i1 %many, i64 %most, i64 %few
  %slices = select i1 %many, i64 %all.slices, i64 %few
  %coarse = select i1 %many, i64 %large, i64 0
  %size = udiv i64 %n, %slices
  %longer = urem i64 %n, %slices
  store i64 %rows, ptr %rows.p
  store i64 %row, ptr %row.p
  store i64 %size, ptr %size.p
  store i64 %longer, ptr %longer.p
  store i64 %coarse, ptr %coarse.p
  store i64 %first, ptr %start.p
  ret i64 %chunks
}

; Runs the job with the caller's help; holds busy. The range is %n iterations, two or more, in
; rounds of %round, two or more.
define internal void @run(ptr %pool, ptr %fn, ptr %env, i64 %n, i64 %round, i32 %helpers) {
entry:
  %epoch.p = getelementptr %pool, ptr %pool, i64 0, i32 2
  %sleepers.p = getelementptr %pool, ptr %pool, i64 0, i32 4
  %completed.p = getelementptr %pool, ptr %pool, i64 0, i32 6
  %waiting.p = getelementptr %pool, ptr %pool, i64 0, i32 7
  %fn.p = getelementptr %pool, ptr %pool, i64 0, i32 13
  %env.p = getelementptr %pool, ptr %pool, i64 0, i32 14
  %round.p = getelementptr %pool, ptr %pool, i64 0, i32 15
  %half0 = getelementptr %pool, ptr %pool, i64 0, i32 18
  %half1 = getelementptr %pool, ptr %pool, i64 0, i32 19
  store ptr %fn, ptr %fn.p
  store ptr %env, ptr %env.p
  store i64 %round, ptr %round.p
  %slots = zext i32 %helpers to i64
  %hands = add i64 %slots, 1
  %rounds = udiv i64 %n, %round
  %rows1 = lshr i64 %round, 1
  %rows0 = sub i64 %round, %rows1
  %n0 = mul i64 %rounds, %rows0
  %n1 = mul i64 %rounds, %rows1
  %half = call i64 @cut(ptr %half0, i64 %n0, i64 %hands, i64 %rows0, i64 0, i64 0)
  %other = call i64 @cut(ptr %half1, i64 %n1, i64 %hands, i64 %rows1, i64 %rows0, i64 %half)
  %all64 = add i64 %half, %other
  %chunks = trunc i64 %all64 to i32
  store atomic i32 0, ptr %completed.p monotonic, align 64
  %high = shl i64 %slots, 52
  %end0 = shl i64 %half, 13
  %begin1 = shl i64 %half, 26
  %end1 = shl i64 %all64, 39
  %ends = or i64 %end0, %end1
  %low = or i64 %ends, %begin1
  %word = or i64 %high, %low
  store atomic i64 %word, ptr %pool release, align 64
  %e = atomicrmw add ptr %epoch.p, i32 1 seq_cst, align 64
  %sleepers = load atomic i32, ptr %sleepers.p seq_cst, align 64
  %asleep = icmp ne i32 %sleepers, 0
  br i1 %asleep, label %wake, label %own
wake:
  call void @futex_wake(ptr %epoch.p, i32 %helpers)
  br label %own
own:
  %claimed = call i64 @claim(ptr %pool, i64 0, i1 false)
  %got = icmp ne i64 %claimed, 0
  br i1 %got, label %work, label %join
work:
  %mine = call i32 @share(ptr %pool, i64 %claimed, i1 false)
  %all = icmp eq i32 %mine, %chunks
  br i1 %all, label %out, label %join
join:
  %start = call i64 @llvm.readcyclecounter()
  br label %spin
spin:
  %done = load atomic i32, ptr %completed.p seq_cst, align 64
  %ended = icmp eq i32 %done, %chunks
  br i1 %ended, label %out, label %still
still:
  call void @llvm.x86.sse2.pause()
  %now = call i64 @llvm.readcyclecounter()
  %spent = sub i64 %now, %start
  %over = icmp ugt i64 %spent, 100000
  br i1 %over, label %doze, label %spin
doze:
  store atomic i32 1, ptr %waiting.p seq_cst, align 4
  br label %check
check:
  %done2 = load atomic i32, ptr %completed.p seq_cst, align 64
  %ended2 = icmp eq i32 %done2, %chunks
  br i1 %ended2, label %awake, label %sleep
sleep:
  call void @futex_wait(ptr %completed.p, i32 %done2)
  br label %check
awake:
  store atomic i32 0, ptr %waiting.p seq_cst, align 4
  br label %out
out:
  ret void
}

define void @tilewright_parallel(ptr %ctx, ptr %fn, ptr %env, i64 %n, i64 %rows) {
entry:
  %threads.p = getelementptr %context, ptr %ctx, i64 0, i32 2
  %threads = load atomic i64, ptr %threads.p monotonic, align 8
  %few = icmp sle i64 %n, 1
  %single = icmp sle i64 %threads, 1
  %alone = or i1 %few, %single
  br i1 %alone, label %inline, label %peek
peek:
  %pool.p = getelementptr %context, ptr %ctx, i64 0, i32 1
  %pool = load ptr, ptr %pool.p
  %busy.p = getelementptr %pool, ptr %pool, i64 0, i32 9
  %taken = load atomic i32, ptr %busy.p monotonic, align 64
  %held = icmp ne i32 %taken, 0
  br i1 %held, label %inline, label %lock
lock:
  %pair = cmpxchg ptr %busy.p, i32 0, i32 1 acquire monotonic, align 64
  %locked = extractvalue { i32, i1 } %pair, 1
  br i1 %locked, label %plan, label %inline
plan:
  %limit = call i64 @llvm.smin.i64(i64 %threads, i64 %n)
  %limit1 = sub i64 %limit, 1
  %most = call i64 @llvm.smin.i64(i64 %limit1, i64 1023)
  %wanted = trunc i64 %most to i32
  %workers.p = getelementptr %pool, ptr %pool, i64 0, i32 10
  %have = load i32, ptr %workers.p
  %enough = icmp sge i32 %have, %wanted
  br i1 %enough, label %cut, label %more
more:
  call void @grow(ptr %pool, i32 %wanted)
  %have1 = load i32, ptr %workers.p
  br label %cut
cut:
  %workers = phi i32 [ %have, %plan ], [ %have1, %more ]
  %short = icmp slt i32 %workers, %wanted
  %helpers = select i1 %short, i32 %workers, i32 %wanted
  %none = icmp sle i32 %helpers, 0
  br i1 %none, label %unlock.inline, label %publish
publish:
  %above = icmp ugt i64 %rows, 1
  %divisor = select i1 %above, i64 %rows, i64 1
  %rest = urem i64 %n, %divisor
  %whole = icmp eq i64 %rest, 0
  %rounds = and i1 %above, %whole
  %round = select i1 %rounds, i64 %rows, i64 %n
  call void @run(ptr %pool, ptr %fn, ptr %env, i64 %n, i64 %round, i32 %helpers)
  store atomic i32 0, ptr %busy.p release, align 64
  br label %out
unlock.inline:
  store atomic i32 0, ptr %busy.p release, align 64
  br label %inline
inline:
  call void %fn(ptr %env, i64 0, i64 %n)
  br label %out
out:
  ret void
}
"""
