/* The read/write lock: room.py and readwrite.py.
 *
 * Promise 3 is the assertion in come_in(), promise 4 are the two LTL formulas, promise 5 is that both hold although
 * processes are killed anywhere. A seeded mistake is what stands under #ifdef.
 */

#include "kernel.pml"

#ifndef READERS
#define READERS 7                       /* bit i: process i comes as a reader */
#define WRITERS 7
#endif
#define MAY(roles)      ((roles >> me) & 1)

#define READER 1
#define WRITER 2

byte room[3], door[3], queue[3];        /* a flock, byte 0, byte 1 */
byte inside[3], wants[3];               /* as what process i is inside; as what it waits */

/* Those who were inside when the lock file was deleted do not count. */
#define MEETS(j, as) \
    (j != me && file[j] == at_path && (inside[j] == WRITER || (inside[j] == READER && as == WRITER)))

inline come_in(as)
{
    inside[me] = as; wants[me] = 0;
    assert(!MEETS(0, as) && !MEETS(1, as) && !MEETS(2, as))     /* no reader with a writer, nor two writers */
}

inline close_description()
{
    atomic { room[me] = UN; door[me] = UN; queue[me] = UN; file[me] = NONE }
}

proctype process(byte me)
{
alive:
    {
    outside:
        do
        :: MAY(READERS) -> atomic { wants[me] = READER };

            if                                          /* Seat.__enter__ of one that was idle */
            :: file[me] == NONE -> goto slowly
            :: else
            fi;
            if
            :: CAN(door, me, SH)                        /* IS_DOOR_SHUT */
#ifdef NO_PEEK
            :: else
#else
            :: else -> goto lost_seat
#endif
            fi;
            if
            :: atomic { CAN(room, me, SH) -> room[me] = SH }
            :: else -> goto lost_seat
            fi;
            if
            :: atomic { IS_AT_ITS_PATH -> come_in(READER) }; goto reading
            :: else
            fi;
        lost_seat:
            close_description();

        slowly:                                         /* ReadWriteFileLock.enter_slowly */
            open_lock_file();
#ifndef ALWAYS_QUEUES
            if                                          /* room.enter_while_open */
            :: CAN(door, me, SH) ->
                if
                :: atomic { CAN(room, me, SH) -> room[me] = SH }; goto look
                :: else
                fi
            :: else
            fi;
#endif
            TAKE(queue, SH);                            /* room.enter_as_reader */
            TAKE(door, SH);
#ifdef QUEUE_LEFT_EARLY
            UNLOCK(queue);
#endif
#ifdef DOOR_LEFT_EARLY
            UNLOCK(door);
#endif
            TAKE(room, SH);
            UNLOCK(door);
            UNLOCK(queue);
        look:
            if
            :: atomic { IS_AT_ITS_PATH -> come_in(READER) }
#ifdef NO_LOOK_READER
            :: atomic { else -> come_in(READER) }
#else
            :: else -> close_description(); goto slowly
#endif
            fi;
        reading:
#ifdef NESTED_QUEUES
            CAN(door, me, SH);
#else
            assert(CAN(room, me, SH));                  /* who is inside may enter again, past the door */
#endif
            inside[me] = 0;
            UNLOCK(room);                               /* Seat.leave */
            if
            :: skip                                     /* it is idle from now on */
            :: close_description()
            fi

        :: MAY(WRITERS) -> atomic { wants[me] = WRITER; file[me] = NONE };

        write:                                          /* ReadWriteFileLock._enter_as_writer */
            open_lock_file();
#ifdef YIELDS_AGAIN
            do                                          /* as it was before this model was */
            :: TAKE(door, EX);
                if
                :: !IS_SHARED(queue) -> break
                :: else -> UNLOCK(door); TAKE(queue, EX); UNLOCK(queue)
                fi
            od;
#elif defined(NO_QUEUE)
            TAKE(door, EX);
#elif defined(NO_DOOR)
            skip;
#else
            TAKE(door, EX);                             /* room.enter_as_writer */
            if
#ifdef QUEUE_TRIED
            :: atomic { CAN(queue, me, EX) -> queue[me] = EX }; UNLOCK(queue)
#else
            :: !IS_SHARED(queue)
#endif
#ifdef KEEPS_DOOR
            :: else -> TAKE(queue, EX); UNLOCK(queue)
#else
            :: else -> UNLOCK(door); TAKE(queue, EX); UNLOCK(queue); TAKE(door, EX)
#endif
            fi;
#endif
            TAKE(room, EX);
            if
            :: atomic { IS_AT_ITS_PATH -> come_in(WRITER) }
#ifdef NO_LOOK_WRITER
            :: atomic { else -> come_in(WRITER) }
#else
            :: else -> close_description(); goto write
#endif
            fi;
            inside[me] = 0;
#ifdef DOOR_FIRST
            UNLOCK(door);
#endif
            UNLOCK(room);                               /* room.leave_as_writer */
            UNLOCK(door);
            close_description()
        od
    } unless {
#ifdef LOCKS_SURVIVE
        atomic { killed == me -> killed = NONE }; goto end_of_it
#else
        atomic { killed == me -> close_description(); killed = NONE }
#endif
    };
    if
    :: goto alive
    :: skip
    fi;
end_of_it:                                              /* nobody starts it again */
    atomic { killed == me -> killed = NONE }; goto end_of_it
}

/* First half of a death: the kernel gives back byte locks before flocks (fs/locks.c, locks_remove_file). */
#define KILL(i) \
    atomic { killed == NONE && i < N -> inside[i] = 0; wants[i] = 0; door[i] = UN; queue[i] = UN; killed = i }

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
