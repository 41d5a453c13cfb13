/* Election, waiting, looking again, stamping: election.py, mutex.py, and Record.created().
 *
 * Promise 1: the assertions in begin() and stamp(). Promise 2: the assertion before the wait. Promise 5: the LTL
 * formula gets_through, with processes killed anywhere. A running creation does not undo an invalidation: the assertion
 * at a fresh pass. With FAILURES creations that raise or die are on record, and a backoff follows: the assertions in
 * begin() and count_death().
 */

#include "kernel.pml"

#ifndef CREATORS
#define CREATORS 7                      /* bit i: process i brings a creator */
#endif
#define MAY(roles)      ((roles >> me) & 1)

/* With PROMPT a momentary look (a shared lock, taken and released at once) is one step, and so are winning the mutex
 * and locking the hold byte. Liveness needs that: see "What is not shown" in README.rst. */

#define MISSING 0
#define STALE   1
#define FRESH   2
#define SOFT    1
#define HARD    2

bool created, expired;                  /* the sidecar: it has a createdtime; that is older than expiretime */
byte invalidated;                       /* 0, SOFT, HARD */
#define STATE   (!created || invalidated == HARD -> MISSING : (invalidated || expired -> STALE : FRESH))

byte mutex[3];                          /* a flock */
bool hold_byte[3];                      /* an exclusive lock on a byte that no other hold has had */
byte waits_for[3] = NONE;               /* the process whose hold must end; NONE: it has ended, its byte stays free */
byte since[3];                          /* the invalidation since i, the holder of the mutex, looked again */
bool creating[3], wants[3];

bool counts[3];                         /* i holds the mutex, and the lock file was not deleted since it won */
bool alone[3];                          /* i alone has held it so far; false if the lock file was deleted */
#ifdef FAILURES
bool attempt, backing_off, last_died;   /* the sidecar, too */
bool unnoticed;                         /* a creator has died, and that is not counted */
#define BACKS_OFF       backing_off
#else
#define BACKS_OFF       false
#endif
#define IS_LOCKED       (!CAN(mutex, me, SH))

bool outdated;                          /* the current version was invalidated, and not created anew since */

#define REFUSES(j)      (j != me && counts[j])
#define HAS_BYTE(j)     (j != me && hold_byte[j] && file[j] == file[me])

inline unlock_byte(i)
{
    hold_byte[i] = false;
    if :: waits_for[0] == i -> waits_for[0] = NONE :: else fi;
    if :: waits_for[1] == i -> waits_for[1] = NONE :: else fi;
    if :: waits_for[2] == i -> waits_for[2] = NONE :: else fi
}

inline close_description() { atomic { mutex[me] = UN; file[me] = NONE } }

inline win()
{
    counts[me] = true;
    alone[me] = (mutex[0] == EX) + (mutex[1] == EX) + (mutex[2] == EX) == 1;
    if
    :: alone[me]
    :: else -> alone[0] = false; alone[1] = false; alone[2] = false
    fi
}

#ifdef FAILURES
inline count_death()                    /* Creation.count_death */
{
    if
#ifndef FORGETS_DEATHS
    :: attempt ->
        assert(unnoticed);                                      /* no failure counts as a death as well */
        unnoticed = false; attempt = false;
        backing_off = last_died; last_died = true               /* the first in a row is followed at once */
#endif
    :: else
    fi
}
#define FAILED          attempt = false; backing_off = true; last_died = false
#define SUCCEEDED       attempt = false; backing_off = false; last_died = false
#else
#define FAILED          skip
#define SUCCEEDED       skip
#endif

inline begin()
{
#ifdef FAILURES
    assert(forced || !backing_off);                             /* no attempt before its time */
    assert(!unnoticed);                                         /* no death is forgotten */
    attempt = true;
#endif
    assert(!counts[me] || (!REFUSES(0) && !REFUSES(1) && !REFUSES(2)));     /* at most one creator runs */
    creating[me] = true
}

inline stamp()
{
    assert(forced || !alone[me] || STATE != FRESH);             /* per expiry exactly one succeeds */
    created = true; expired = false; creating[me] = false;
#ifdef STAMP_FORGETS
    invalidated = 0
#else
    invalidated = since[me]                                     /* record.Record.created */
#endif
}

proctype process(byte me)
{
    bool first, forced;                         /* the state was missing when it came; it creates in any case */
    bool held_back;                             /* by its last look it is too early to create */
alive:
    {
        do
        :: atomic { wants[me] = true; first = (STATE == MISSING);       /* Acquisition.__enter__ */
                assert(STATE != FRESH || !outdated);
                held_back = BACKS_OFF;
                if
                :: STATE == FRESH -> goto through
                :: STATE == STALE -> goto through       /* lost an election a moment ago */
                :: STATE == STALE && MAY(CREATORS) && !held_back -> goto elect
                :: STATE == MISSING && MAY(CREATORS) -> goto first_creation
                :: STATE == MISSING && !MAY(CREATORS) -> goto wait
                fi
            };

        first_creation:                                 /* Acquisition._wait_for_first_creation */
            if
            :: atomic { held_back -> open_lock_file() };
                atomic {
                    if
                    :: IS_LOCKED -> close_description()         /* another creates, by force: wait for it */
                    :: else -> close_description(); goto through        /* CreationFailed */
                    fi
                }
            :: !held_back
            fi;
        elect:                                          /* FileMutex._take */
            open_lock_file();
            do
#ifdef PROMPT
            :: atomic { CAN(mutex, me, EX) && IS_AT_ITS_PATH -> mutex[me] = EX; win(); hold_byte[me] = true };
                goto elected
            :: !IS_AT_ITS_PATH -> goto elect
#else
            :: TAKE(mutex, EX); break
#endif
            :: else ->                                  /* _lock_now: does the other only look? */
#ifdef PROMPT
                goto lost
#else
                if
                :: TAKE(mutex, SH); UNLOCK(mutex);
                    if
                    :: skip
                    :: goto lost                        /* for the tenth time */
                    fi
                :: else -> goto lost
                fi
#endif
            od;
        won:
            atomic {
                if
#ifndef NO_PATH_CHECK
                :: !IS_AT_ITS_PATH -> close_description(); goto elect
#endif
                :: IS_AT_ITS_PATH -> win()
#ifdef NO_PATH_CHECK
                :: else -> win()
#endif
                fi
            };
            hold_byte[me] = true;
            goto elected;
        lost:
            close_description();
            if
#ifndef STALE_WAITS
            :: !first -> goto through
#endif
            :: else
            fi;

        wait:                                           /* Acquisition._wait_for_first_creation */
            assert(first);                    /* after the first creation no caller waits for another's */
#ifdef WAITERS_TAKE_MUTEX
            open_lock_file(); TAKE(mutex, EX); goto won;
#endif
            if                                          /* FileMutex._wait_released */
            :: at_path == NONE -> goto look_again
            :: atomic { at_path != NONE -> file[me] = at_path }
            fi;
            do
            :: atomic { HAS_BYTE(0) -> waits_for[me] = 0 }; break
            :: atomic { HAS_BYTE(1) -> waits_for[me] = 1 }; break
            :: atomic { HAS_BYTE(2) -> waits_for[me] = 2 }; break
#ifdef PROMPT
            :: !HAS_BYTE(0) && !HAS_BYTE(1) && !HAS_BYTE(2) && CAN(mutex, me, SH) -> break
#else
            :: else ->
                if
                :: TAKE(mutex, SH); UNLOCK(mutex); break
                :: else ->
                    if
                    :: skip                             /* a pause of 0.5 ms */
                    :: TAKE(mutex, SH); break           /* for the tenth time: another program, without a hold byte */
                    fi
                fi
#endif
            od;
#ifdef ONE_BYTE
            !HAS_BYTE(0) && !HAS_BYTE(1) && !HAS_BYTE(2);
            waits_for[me] = NONE;
#else
            waits_for[me] == NONE;
#endif
            close_description();
        look_again:
            held_back = BACKS_OFF;
            if
            :: STATE == MISSING && MAY(CREATORS) -> goto first_creation
            :: STATE == MISSING && !MAY(CREATORS) -> goto wait
            :: STATE != MISSING -> goto through
            fi;

        elected:                                        /* Acquisition._create_if_still */
            atomic {
                since[me] = 0;
                if
#ifndef NO_LOOK_AGAIN
                :: !forced && STATE == FRESH -> goto release
#ifndef CREATES_AGAIN
                :: !forced && STATE == STALE && first -> goto release
#endif
#endif
                :: else
                fi
            };
            atomic {
#ifdef FAILURES
                count_death();
                if
#ifndef NO_SECOND_CHECK
                :: backing_off && !forced -> goto release
#endif
                :: else
                fi;
#endif
                begin()
            };
            if
            :: skip
            :: atomic { !quiet -> creating[me] = false;
#ifndef RAISING_LEAVES_ATTEMPT
                    FAILED
#endif
                }; goto release                                 /* the creator raises */
            fi;
            atomic {
                stamp(); SUCCEEDED;
                if
                :: since[me]
                :: else -> outdated = false
                fi
            };
        release:                                        /* FileMutex.release */
            forced = false;
#ifdef BYTE_FIRST
            atomic { unlock_byte(me) };
            atomic { mutex[me] = UN; since[me] = 0; counts[me] = false; alone[me] = false };
#else
            atomic { mutex[me] = UN; since[me] = 0; counts[me] = false; alone[me] = false };
            atomic { unlock_byte(me) };
#endif
            close_description();
        through:
            atomic { wants[me] = false; first = false; held_back = false }

#ifdef FORCE
        :: !quiet -> forced = true;                     /* refresh(force=True): Acquisition.forced */
        force:
            open_lock_file();
            TAKE(mutex, EX);
            atomic {
                if
                :: IS_AT_ITS_PATH -> win()
                :: else -> close_description(); goto force
                fi
            };
            hold_byte[me] = true;
            goto elected
#endif
        od
    } unless {
        atomic { killed == me -> killed = NONE; first = false; forced = false; held_back = false; since[me] = 0;
#ifndef LOCKS_SURVIVE
            mutex[me] = UN; alone[me] = false; file[me] = NONE
#endif
        }
    };
    if
    :: goto alive
    :: skip
    fi;
end_of_it:                                              /* the process is not started again */
    atomic { killed == me -> killed = NONE }; goto end_of_it
}

/* First half of a death: the kernel releases byte locks before flocks (fs/locks.c, locks_remove_file). */
inline kill(i)
{
#ifdef FAILURES
    unnoticed = unnoticed || creating[i];
#endif
    killed = i; wants[i] = false; creating[i] = false; counts[i] = false; since[i] = 0; waits_for[i] = NONE;
    unlock_byte(i)
}

#define RAISED(i) since[i] = (mutex[i] == EX && how > since[i] -> how : since[i])

inline invalidate(how)
{
    invalidated = (invalidated > how -> invalidated : how);
    RAISED(0); RAISED(1); RAISED(2);
    outdated = created
}

active proctype environment()
{
end:
    do
    :: atomic { !quiet && killed == NONE -> kill(0) }
    :: atomic { !quiet && killed == NONE -> kill(1) }
    :: atomic { !quiet && killed == NONE && N == 3 -> kill(2) }
    :: atomic { !quiet -> invalidate(SOFT) }
    :: atomic { !quiet -> invalidate(HARD) }
#ifndef NO_CLEANER
    :: atomic { !quiet && at_path != NONE -> at_path = NONE;    /* it deletes the lock file */
            counts[0] = false; counts[1] = false; counts[2] = false }
#endif
    :: atomic { created && !expired -> expired = true } /* time passes, also in quiet */
#ifdef FAILURES
    :: atomic { backing_off -> backing_off = false }
#endif
    :: atomic { !quiet && killed == NONE -> quiet = true }
    od
}

init
{
    atomic {
        run process(0);
        run process(1);
        if
        :: N == 3 -> run process(2)
        :: else
        fi
    }
}

ltl gets_through { [] ((quiet && wants[0]) -> <> !wants[0]) }
