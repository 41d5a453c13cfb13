/* The read/write lock: rw_protocol.py, readwrite.py and reader_pool.py.
 *
 * Promise 3 is the assertion in come_in(). Promise 4 is the two LTL formulas. Promise 5 is that both hold although
 * processes are killed anywhere. Code under #ifdef is a seeded mistake, if model_search.py does not say otherwise.
 */

#include "kernel.pml"

#ifndef READERS
#define READERS 7                       /* bit i: process i comes as a reader */
#define WRITERS 7
#endif
#define MAY(roles)      ((roles >> me) & 1)

#define READER 1
#define WRITER 2

byte flock[3], pending[3], waiting[3];  /* flock of the file; pending byte; waiting-readers byte */
byte inside[3], wants[3];               /* the role in which process i is inside; in which it waits */

#define CHECKED 2
byte length[3];                         /* of the file, to the idle slot of process i: another one than it remembers, 1: */
                                        /* what it has just read, CHECKED: what it was when no writer was pending */

/* Processes that were inside when the lock file was deleted do not count. */
#define MEETS(j, as) \
    (j != me && file[j] == at_path && (inside[j] == WRITER || (inside[j] == READER && as == WRITER)))

inline come_in(as)
{
    inside[me] = as; wants[me] = 0;
    assert(!MEETS(0, as) && !MEETS(1, as) && !MEETS(2, as))     /* no reader with a writer, nor two writers */
}

inline close_description()
{
    atomic { flock[me] = UN; pending[me] = UN; waiting[me] = UN; file[me] = NONE; length[me] = 0 }
}

/* rw_protocol._change_length */
inline change_length()
{
    atomic { length[0] = 0; length[1] = 0; length[2] = 0 }
}

proctype process(byte me)
{
    bool is_checked;
alive:
    {
    outside:
        do
        :: MAY(READERS) -> atomic { wants[me] = READER };

            if
            :: file[me] == NONE -> goto slowly
            :: atomic { file[me] != NONE && length[me] == CHECKED -> is_checked = true }
            :: atomic { file[me] != NONE -> is_checked = false; length[me] = 1 }     /* also after 10 ms */
            fi;
            if                                          /* ReaderSlot.__enter__ of an idle slot */
            :: is_checked
            :: !is_checked && CAN(pending, me, SH)         /* QUERY_PENDING */
#ifdef NO_QUERY
            :: else
#else
            :: else -> goto lost_slot
#endif
            fi;
            if
            :: atomic { CAN(flock, me, SH) -> flock[me] = SH }
            :: else -> goto lost_slot
            fi;
            if
            :: atomic {
                IS_AT_ITS_PATH -> come_in(READER);
                is_checked = false;
                if
                :: length[me] == 1 -> length[me] = CHECKED
                :: else
                fi
               }; goto reading
            :: else
            fi;
        lost_slot:
            is_checked = false;
            close_description();

        slowly:                                         /* ReadWriteFileLock._enter_slowly */
            open_lock_file();
#ifndef ALWAYS_WAITS
            if                                          /* rw_protocol.enter_unless_pending */
            :: CAN(pending, me, SH) ->
                if
                :: atomic { CAN(flock, me, SH) -> flock[me] = SH }; goto check_path
                :: else
                fi
            :: else
            fi;
#endif
            TAKE(waiting, SH);                          /* rw_protocol.enter_as_reader */
            TAKE(pending, SH);
#ifdef WAITING_LEFT_EARLY
            UNLOCK(waiting);
#endif
#ifdef PENDING_LEFT_EARLY
            UNLOCK(pending);
#endif
            TAKE(flock, SH);
            UNLOCK(pending);
            UNLOCK(waiting);
        check_path:
            if
            :: atomic { IS_AT_ITS_PATH -> come_in(READER) }
#ifdef NO_PATH_CHECK_READER
            :: atomic { else -> come_in(READER) }
#else
            :: else -> close_description(); goto slowly
#endif
            fi;
        reading:
#ifdef NESTED_WAITS
            CAN(pending, me, SH);
#else
            assert(CAN(flock, me, SH));                 /* a reader inside may enter again, past a writer that waits */
#endif
            inside[me] = 0;
            UNLOCK(flock);                              /* ReaderSlot.leave */
            if
            :: skip                                     /* the slot is idle from now on */
            :: close_description()
            fi

        :: MAY(WRITERS) -> atomic { wants[me] = WRITER; file[me] = NONE };

        write:                                          /* ReadWriteFileLock._enter_as_writer */
            open_lock_file();
#ifdef TELLS_FIRST
            change_length();
#define NO_TELLING
#endif
#ifdef YIELDS_AGAIN
            do                                          /* the code before this model found the fault */
            :: TAKE(pending, EX);
                if
                :: !IS_SHARED(waiting) -> break
                :: else -> UNLOCK(pending); TAKE(waiting, EX); UNLOCK(waiting)
                fi
            od;
#elif defined(NO_WAITING)
            TAKE(pending, EX);
#elif defined(NO_PENDING)
            skip;
#else
            TAKE(pending, EX);                          /* rw_protocol.enter_as_writer */
            if
#ifdef WAITING_TRIED
            :: atomic { CAN(waiting, me, EX) -> waiting[me] = EX }; UNLOCK(waiting)
#else
            :: !IS_SHARED(waiting)
#endif
#ifdef KEEPS_PENDING
            :: else -> TAKE(waiting, EX); UNLOCK(waiting)
#else
            :: else -> UNLOCK(pending); TAKE(waiting, EX); UNLOCK(waiting); TAKE(pending, EX)
#endif
            fi;
#endif
            if
            :: atomic { CAN(flock, me, EX) -> flock[me] = EX }
#ifdef NO_TELLING
            :: else -> TAKE(flock, EX)
#else
            :: else -> change_length(); TAKE(flock, EX)
#endif
            fi;
            if
            :: atomic { IS_AT_ITS_PATH -> come_in(WRITER) }
#ifdef NO_PATH_CHECK_WRITER
            :: atomic { else -> come_in(WRITER) }
#else
            :: else -> close_description(); goto write
#endif
            fi;
            inside[me] = 0;
#ifdef PENDING_FIRST
            UNLOCK(pending);
#endif
            UNLOCK(flock);                              /* rw_protocol.leave_as_writer */
            UNLOCK(pending);
            close_description()
        od
    } unless {
#ifdef LOCKS_SURVIVE
        atomic { killed == me -> killed = NONE }; goto end_of_it
#else
        atomic { killed == me -> close_description(); is_checked = false; killed = NONE }
#endif
    };
    if
    :: goto alive
    :: skip
    fi;
end_of_it:                                              /* the process is not started again */
    atomic { killed == me -> killed = NONE }; goto end_of_it
}

/* First half of a death: the kernel releases byte locks before flocks (fs/locks.c, locks_remove_file). */
#define KILL(i) \
    atomic { killed == NONE && i < N -> inside[i] = 0; wants[i] = 0; pending[i] = UN; waiting[i] = UN; killed = i }

active proctype environment()
{
    do
    :: KILL(0)
    :: KILL(1)
    :: KILL(2)
#ifndef NO_CLEANER
    :: atomic { at_path != NONE -> at_path = NONE }     /* it deletes the lock file */
#endif
    :: atomic { killed == NONE -> quiet = true; break }
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

ltl writer_gets_in { [] ((quiet && wants[0] == WRITER) -> <> (inside[0] == WRITER)) }
ltl reader_gets_in { [] ((quiet && wants[N - 1] == READER) -> <> (inside[N - 1] == READER)) }
