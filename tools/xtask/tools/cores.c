/* A machine of equal cores under QEMU, counted: a TCG plugin.
 *
 *   qemu-system-aarch64 ... -plugin libcores.so,mark=0xADDR,skip=0xLOW-0xHIGH
 *
 * Under emulation each core is a thread of the host, and how far one comes while another runs is the host's whim. Here each core has a
 * clock that goes by one with every instruction, waiting included, and no core may be more than WINDOW instructions ahead of another that
 * runs: as four real cores of one speed, whatever else the host does. WFE waits, as on a real core, until an SEV, and the core wakes at the time of
 * the core that sent it; QEMU takes both for no-ops. A core that sleeps (WFI) has no time and begins with that of the others.
 *
 * Every time the first core comes to a block that begins at the marked address, a line goes to stderr: "mark", the first core's clock, and for each
 * core the instructions it has executed outside LOW to HIGH (where cores wait for each other). A block left early counts whole.
 * If threads did not keep to this for want of an answer from the host within PATIENCE_MS, the line ends with " late" and how often.
 *
 * `cargo xtask prove-firmware --count` compiles it; the header is part of QEMU's source and not of this repository.
 */
#define _GNU_SOURCE
#include <inttypes.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <qemu-plugin.h>

QEMU_PLUGIN_EXPORT int qemu_plugin_version = QEMU_PLUGIN_VERSION;

#define CORES 8
#define WINDOW 1000
/* How often a core compares its clock with the others'. */
#define STEP 250
/* A core that waits holds up what QEMU does to all of them at once (a flush of its translations), so no wait is for ever. */
#define PATIENCE_MS 200
/* With nobody running only the world outside can end a wait. */
#define OUTSIDE_MS 1

#define WFE 0xd503205f
#define SEV 0xd503209f

enum state { ASLEEP, WAITING, RUNNING };

/* Each core's own, on cache lines of its own; clocks are read by the others, all else of others only under the lock. */
static struct core {
    uint64_t clock, work, limit;
    enum state state;
    bool event;
    pthread_cond_t woken;
    char apart[64];
} cores[CORES];

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t moved = PTHREAD_COND_INITIALIZER;
static unsigned int held_up;
static uint64_t mark, low, high, late;

static uint64_t clock_of(const struct core *core)
{
    return __atomic_load_n(&core->clock, __ATOMIC_RELAXED);
}

static void set_clock(struct core *core, uint64_t clock)
{
    __atomic_store_n(&core->clock, clock, __ATOMIC_RELAXED);
}

/* False: not within so many milliseconds. */
static bool wait_for(pthread_cond_t *cond, long ms)
{
    struct timespec end;

    clock_gettime(CLOCK_REALTIME, &end);
    end.tv_nsec += ms * 1000000;
    end.tv_sec += end.tv_nsec / 1000000000;
    end.tv_nsec %= 1000000000;
    return pthread_cond_timedwait(cond, &lock, &end) == 0;
}

/* The slowest or the fastest that runs but for one core; `none` if none does. */
static uint64_t of_others(const struct core *but, bool fastest, uint64_t none)
{
    uint64_t found = none;
    bool any = false;

    for (int i = 0; i < CORES; i++) {
        if (&cores[i] != but && cores[i].state == RUNNING) {
            uint64_t clock = clock_of(&cores[i]);

            if (!any || (fastest ? clock > found : clock < found)) {
                found = clock;
            }
            any = true;
        }
    }
    return found;
}

/* Holds a core until it is not too far ahead. */
static void pace(struct core *core)
{
    uint64_t slowest;

    pthread_mutex_lock(&lock);
    if (core->state != RUNNING) {
        uint64_t now = of_others(core, true, 0);

        if (clock_of(core) < now) {
            set_clock(core, now);
        }
        core->state = RUNNING;
    }
    if (held_up) {
        pthread_cond_broadcast(&moved);
    }
    while (slowest = of_others(core, false, UINT64_MAX - WINDOW), core->clock > slowest + WINDOW) {
        held_up++;
        bool in_time = wait_for(&moved, PATIENCE_MS);
        held_up--;
        if (!in_time) {
            late++;
            break;
        }
    }
    core->limit = core->clock + STEP;
    pthread_mutex_unlock(&lock);
}

static void executed(unsigned int id, uint64_t n, uint64_t work)
{
    if (id < CORES) {
        struct core *core = &cores[id];

        set_clock(core, core->clock + n);
        core->work += work;
        if (core->clock > core->limit) {
            pace(core);
        }
    }
}

static void worked(unsigned int id, void *n)
{
    executed(id, (uintptr_t)n, (uintptr_t)n);
}

static void waited(unsigned int id, void *n)
{
    executed(id, (uintptr_t)n, 0);
}

static void wait_for_event(unsigned int id, void *data)
{
    struct core *core = &cores[id];

    (void)data;
    if (id >= CORES) {
        return;
    }
    pthread_mutex_lock(&lock);
    if (!core->event) {
        core->state = WAITING;
        pthread_cond_broadcast(&moved);
        /* Whoever sends the event says that this core runs again, and since when. */
        while (core->state == WAITING) {
            bool alone = of_others(core, true, UINT64_MAX) == UINT64_MAX;

            if (!wait_for(&core->woken, alone ? OUTSIDE_MS : PATIENCE_MS)) {
                core->state = RUNNING;
                uint64_t now = of_others(core, true, 0);
                if (core->clock < now) {
                    set_clock(core, now);
                }
            }
        }
        core->limit = 0;
    }
    core->event = false;
    pthread_mutex_unlock(&lock);
}

static void send_event(unsigned int id, void *data)
{
    (void)data;
    if (id >= CORES) {
        return;
    }
    pthread_mutex_lock(&lock);
    for (int i = 0; i < CORES; i++) {
        struct core *core = &cores[i];

        core->event = true;
        if (core->state == WAITING) {
            if (clock_of(core) < cores[id].clock) {
                set_clock(core, cores[id].clock);
            }
            core->state = RUNNING;
            pthread_cond_signal(&core->woken);
        }
    }
    cores[id].limit = 0;
    pthread_mutex_unlock(&lock);
}

static void sleeps(qemu_plugin_id_t plugin, unsigned int id)
{
    (void)plugin;
    if (id < CORES) {
        pthread_mutex_lock(&lock);
        cores[id].state = ASLEEP;
        cores[id].limit = 0;
        pthread_cond_broadcast(&moved);
        pthread_mutex_unlock(&lock);
    }
}

static void marked(unsigned int id, void *data)
{
    char line[32 * (CORES + 3)];
    int at = snprintf(line, sizeof line, "mark %" PRIu64, cores[0].clock);

    (void)data;
    if (id != 0) {
        return;
    }
    pthread_mutex_lock(&lock);
    for (int i = 0; i < CORES; i++) {
        at += snprintf(line + at, sizeof line - at, " %" PRIu64, cores[i].work);
    }
    if (late) {
        at += snprintf(line + at, sizeof line - at, " late %" PRIu64, late);
    }
    pthread_mutex_unlock(&lock);
    fprintf(stderr, "%s\n", line);
}

static void translated(qemu_plugin_id_t id, struct qemu_plugin_tb *tb)
{
    uint64_t address = qemu_plugin_tb_vaddr(tb);
    size_t n = qemu_plugin_tb_n_insns(tb);
    bool waits = address >= low && address < high;

    (void)id;
    if (address == mark) {
        qemu_plugin_register_vcpu_tb_exec_cb(tb, marked, QEMU_PLUGIN_CB_NO_REGS, NULL);
    }
    qemu_plugin_register_vcpu_tb_exec_cb(tb, waits ? waited : worked, QEMU_PLUGIN_CB_NO_REGS, (void *)(uintptr_t)n);
    for (size_t i = 0; i < n; i++) {
        struct qemu_plugin_insn *insn = qemu_plugin_tb_get_insn(tb, i);
        uint32_t word;

        memcpy(&word, qemu_plugin_insn_data(insn), sizeof word);
        if (word == WFE) {
            qemu_plugin_register_vcpu_insn_exec_cb(insn, wait_for_event, QEMU_PLUGIN_CB_NO_REGS, NULL);
        } else if (word == SEV) {
            qemu_plugin_register_vcpu_insn_exec_cb(insn, send_event, QEMU_PLUGIN_CB_NO_REGS, NULL);
        }
    }
}

QEMU_PLUGIN_EXPORT int qemu_plugin_install(qemu_plugin_id_t id, const qemu_info_t *info, int argc, char **argv)
{
    (void)info;
    for (int i = 0; i < argc; i++) {
        if (!strncmp(argv[i], "mark=", 5)) {
            mark = strtoull(argv[i] + 5, NULL, 0);
        } else if (!strncmp(argv[i], "skip=", 5)) {
            char *end;

            low = strtoull(argv[i] + 5, &end, 0);
            high = strtoull(end + 1, NULL, 0);
        } else {
            fprintf(stderr, "cores: no such option: %s\n", argv[i]);
            return -1;
        }
    }
    for (int i = 0; i < CORES; i++) {
        pthread_cond_init(&cores[i].woken, NULL);
    }
    qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
    qemu_plugin_register_vcpu_idle_cb(id, sleeps);
    return 0;
}
