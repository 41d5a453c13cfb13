/* What the kernel does for a lock file: open file descriptions, flock, byte locks, and the death of a process.
 *
 * Each process has at most one description of the lock file open. LOCK[i] is what process i has locked through it. A
 * lock belongs to a description, and two descriptions conflict only if they are of the same file. A deleted file goes
 * on existing for the processes that have it open, and excludes no process that opens the path anew.
 */

#ifndef N
#define N 3                             /* processes; the arrays always have three places */
#endif

#define NONE   7
/* Files are 0 to 3: one at the path, one held open by each process after it was deleted. */

#define UN 0
#define SH 1
#define EX 2

byte at_path = NONE;                    /* which file is at the lock file's path */
byte file[3] = NONE;                    /* of which file process i has a description open */
byte killed = NONE;                     /* the process that is dying */
bool quiet;                             /* from now on no process is killed, and no other program interferes */

#define HAS_OPEN(j, f)          (file[j] == f)
#define IN_USE(f)               (at_path == f || HAS_OPEN(0, f) || HAS_OPEN(1, f) || HAS_OPEN(2, f))
#define REFUSED_BY(j, LOCK, i, kind) \
    (j != i && file[j] == file[i] && (LOCK[j] == EX || (LOCK[j] == SH && kind == EX)))
#define CAN(LOCK, i, kind) \
    (!REFUSED_BY(0, LOCK, i, kind) && !REFUSED_BY(1, LOCK, i, kind) && !REFUSED_BY(2, LOCK, i, kind))

#define SHARES(j, LOCK, i)      (j != i && file[j] == file[i] && LOCK[j] == SH)
#define IS_SHARED(LOCK)         (SHARES(0, LOCK, me) || SHARES(1, LOCK, me) || SHARES(2, LOCK, me))

/* A blocking lock. Which of several waiting processes is the next is left open. */
#define TAKE(LOCK, kind)        atomic { CAN(LOCK, me, kind) -> LOCK[me] = kind }
#define UNLOCK(LOCK)            LOCK[me] = UN

/* openfile.OpenFile.open_lock_file(): the file at the path, made if it is missing. */
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

/* openfile.OpenFile.is_at_its_path() */
#define IS_AT_ITS_PATH          (file[me] == at_path)
