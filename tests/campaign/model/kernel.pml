/* What the kernel does for a lock file: open file descriptions, flock, byte locks, and what a death leaves behind.
 *
 * Each process has at most one description of the lock file open. LOCK[i] is what it has locked through it. A lock
 * belongs to a description, and descriptions meet only if they are of the same file: one that was deleted goes on
 * existing for those who have it open, and excludes nobody who opens the path anew.
 */

#ifndef N
#define N 3                             /* processes; the arrays always have three places */
#endif

#define NONE   7
#define FILES  4                        /* one at the path, one held open by each process after it was deleted */

#define UN 0
#define SH 1
#define EX 2

byte at_path = NONE;                    /* which file is at the lock file's path */
byte file[3] = NONE;                    /* of which file process i has a description open */
byte killed = NONE;                     /* who is dying */
bool quiet;                             /* from now on nobody is killed, and no foreign hand is in play */

#define HAS_OPEN(j, f)          (file[j] == f)
#define IN_USE(f)               (at_path == f || HAS_OPEN(0, f) || HAS_OPEN(1, f) || HAS_OPEN(2, f))
#define REFUSED_BY(j, LOCK, i, kind) \
    (j != i && file[j] == file[i] && (LOCK[j] == EX || (LOCK[j] == SH && kind == EX)))
#define CAN(LOCK, i, kind) \
    (!REFUSED_BY(0, LOCK, i, kind) && !REFUSED_BY(1, LOCK, i, kind) && !REFUSED_BY(2, LOCK, i, kind))

#define SHARES(j, LOCK, i)      (j != i && file[j] == file[i] && LOCK[j] == SH)
#define IS_SHARED(LOCK)         (SHARES(0, LOCK, me) || SHARES(1, LOCK, me) || SHARES(2, LOCK, me))

/* A blocking lock. Nothing is said about who of several that wait is the next. */
#define TAKE(LOCK, kind)        atomic { CAN(LOCK, me, kind) -> LOCK[me] = kind }
#define UNLOCK(LOCK)            LOCK[me] = UN

/* lockfile.open_regular(create=True): the file at the path, made if it is missing. */
inline open_lock_file()
{
    atomic {
        if
        :: at_path != NONE
        :: at_path == NONE ->
            if
            :: !IN_USE(0) -> at_path = 0
            :: IN_USE(0) && !IN_USE(1) -> at_path = 1
            :: IN_USE(0) && IN_USE(1) && !IN_USE(2) -> at_path = 2
            :: IN_USE(0) && IN_USE(1) && IN_USE(2) -> at_path = 3
            fi
        fi;
        file[me] = at_path
    }
}

/* lockfile.Description.is_at_its_path() */
#define IS_AT_ITS_PATH          (file[me] == at_path)
