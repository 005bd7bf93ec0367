/* A libnvidia-ml.so.1 whose world is a text file, read again on every call, so that a test changes the world by
   writing the file. Loaded by the unmodified pynvml.

   NVML_STUB_SCENARIO names the file, NVML_STUB_CALLS (optional) a file that gets the name of every call.
   A line is `device key value...`. The device is `-` (the library), `0`, `1`... (GPU by index) or `0.2` (third MIG
   device of GPU 0). A value `!15` makes the call answer error 15, `~1500 v` sleeps 1500 ms first and then means `v`.
   The last line of a key wins, except for lists (proc, graphics, mps, sample, event), where every line is an entry.
   A key that is not there answers NOT_SUPPORTED. Structure layouts: nvml.h of CUDA 13, x86-64. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

typedef unsigned int u32;
typedef unsigned long long u64;
enum { OK = 0, INVALID = 2, UNSUPPORTED = 3, NOT_FOUND = 6, SMALL = 7, TIMEOUT = 10, VERSION = 25 };
#define ROWS 256
#define SHORT 64
#define LONG 256

typedef struct { char name[16]; int gpu, mig; } device_t;
static device_t devices[32][17];
static u64 last_event;

static void called(const char *name) {
    const char *path = getenv("NVML_STUB_CALLS");
    FILE *f = path ? fopen(path, "a") : NULL;
    if (!f) return;
    fprintf(f, "%s\n", name);
    fclose(f);
}
#define CALLED called(__func__)

/* `!code` -> that code; `~ms rest` -> sleep, then rest; else OK and `value` points at the text. */
static int meaning(char **value) {
    while (**value == '~') {
        long ms = strtol(*value + 1, value, 10);
        struct timespec t = {ms / 1000, (ms % 1000) * 1000000};
        nanosleep(&t, NULL);
        while (**value == ' ') (*value)++;
    }
    return **value == '!' ? atoi(*value + 1) : OK;
}

/* All values of a key, newest last; returns how many. */
static int lookup(const char *device, const char *key, char values[][LONG], int room) {
    const char *path = getenv("NVML_STUB_SCENARIO");
    FILE *f = path ? fopen(path, "r") : NULL;
    char line[512], d[32], k[SHORT];
    int count = 0, at;
    if (!f) return 0;
    while (fgets(line, sizeof line, f)) {
        line[strcspn(line, "\n")] = 0;
        if (sscanf(line, "%31s %63s %n", d, k, &at) < 2 || strcmp(d, device) || strcmp(k, key)) continue;
        if (count == room) { memmove(values, values + 1, (size_t)(room - 1) * LONG); count--; }
        snprintf(values[count++], LONG, "%s", line + at);
    }
    fclose(f);
    return count;
}

static int text(const char *device, const char *key, char *out, u32 size) {
    char values[1][LONG], *v = values[0];
    int code;
    if (!lookup(device, key, values, 1)) return UNSUPPORTED;
    if ((code = meaning(&v)) != OK) return code;
    snprintf(out, size, "%s", v);
    return OK;
}

static int number(const char *device, const char *key, double *out) {
    char v[LONG];
    int code = text(device, key, v, sizeof v);
    if (code == OK) *out = strtod(v, NULL);
    return code;
}

static int whole(const char *device, const char *key, u64 *out) {
    char v[LONG];
    int code = text(device, key, v, sizeof v);
    if (code == OK) *out = strtoull(v, NULL, 10);
    return code;
}

static int small(const char *device, const char *key, u32 *out) {
    u64 v;
    int code = whole(device, key, &v);
    if (code == OK) *out = (u32)v;
    return code;
}

/* --- library ---------------------------------------------------------------------------------------------------- */
int nvmlInitWithFlags(u32 flags) {
    char v[LONG];
    (void)flags;
    CALLED;
    int code = text("-", "init", v, sizeof v);
    return code == UNSUPPORTED ? OK : code;
}
int nvmlInit_v2(void) { return nvmlInitWithFlags(0); }
int nvmlShutdown(void) { CALLED; return OK; }
int nvmlSystemGetDriverVersion(char *out, u32 size) { CALLED; return text("-", "driver", out, size); }
int nvmlDeviceGetCount_v2(u32 *out) { CALLED; return small("-", "count", out); }

/* --- devices ---------------------------------------------------------------------------------------------------- */
static device_t *device(int gpu, int mig) {
    device_t *d = &devices[gpu][mig + 1];
    d->gpu = gpu;
    d->mig = mig;
    if (mig < 0) snprintf(d->name, sizeof d->name, "%d", gpu);
    else snprintf(d->name, sizeof d->name, "%d.%d", gpu, mig);
    return d;
}
int nvmlDeviceGetHandleByIndex_v2(u32 index, device_t **out) {
    u32 count = 0;
    char v[LONG];
    CALLED;
    if (small("-", "count", &count) != OK || index >= count || index >= 32) return INVALID;
    *out = device((int)index, -1);
    int code = text((*out)->name, "handle", v, sizeof v);
    return code == UNSUPPORTED ? OK : code;
}
int nvmlDeviceGetUUID(device_t *d, char *out, u32 size) { CALLED; return text(d->name, "uuid", out, size); }
int nvmlDeviceGetName(device_t *d, char *out, u32 size) { CALLED; return text(d->name, "name", out, size); }
int nvmlDeviceGetMinorNumber(device_t *d, u32 *out) { CALLED; return small(d->name, "minor", out); }
int nvmlDeviceGetHandleByUUID(const char *uuid, device_t **out) {
    u32 count = 0;
    char v[LONG];
    CALLED;
    small("-", "count", &count);
    for (int gpu = 0; gpu < (int)count && gpu < 32; gpu++)
        for (int mig = -1; mig < 16; mig++) {
            device_t *d = device(gpu, mig);
            if (text(d->name, "uuid", v, sizeof v) == OK && !strcmp(v, uuid)) { *out = d; return OK; }
        }
    return NOT_FOUND;
}
typedef struct { char legacy[16]; u32 domain, bus, device, id, subsystem; char bus_id[32]; } pci_t;
int nvmlDeviceGetPciInfo_v3(device_t *d, pci_t *out) {
    CALLED;
    memset(out, 0, sizeof *out);
    return text(d->name, "pci", out->bus_id, sizeof out->bus_id);
}

/* --- MIG -------------------------------------------------------------------------------------------------------- */
int nvmlDeviceGetMigMode(device_t *d, u32 *current, u32 *pending) {
    CALLED;
    int code = small(d->name, "mig", current);
    *pending = *current;
    return code;
}
int nvmlDeviceGetMaxMigDeviceCount(device_t *d, u32 *out) { (void)d; CALLED; *out = 7; return OK; }
int nvmlDeviceGetMigDeviceHandleByIndex(device_t *d, u32 index, device_t **out) {
    char v[LONG];
    CALLED;
    if (index >= 16) return INVALID;
    *out = device(d->gpu, (int)index);
    int code = text((*out)->name, "uuid", v, sizeof v);
    return code == UNSUPPORTED ? NOT_FOUND : code;
}
int nvmlDeviceGetGpuInstanceId(device_t *d, u32 *out) { CALLED; return small(d->name, "gi", out); }
int nvmlDeviceGetComputeInstanceId(device_t *d, u32 *out) { CALLED; return small(d->name, "ci", out); }
int nvmlDeviceGetDeviceHandleFromMigDeviceHandle(device_t *d, device_t **out) {
    CALLED;
    *out = device(d->gpu, -1);
    return OK;
}

/* --- readings --------------------------------------------------------------------------------------------------- */
int nvmlDeviceGetUtilizationRates(device_t *d, u32 *out) {
    CALLED;
    out[1] = 0;
    int code = small(d->name, "busy", &out[0]);
    small(d->name, "memory_busy", &out[1]);
    return code;
}
/* `memory TOTAL RESERVED USED`: version 1 counts the reserved part as used, version 2 does not. */
static int memory(device_t *d, u64 *total, u64 *reserved, u64 *used) {
    char v[LONG];
    int code = text(d->name, "memory", v, sizeof v);
    if (code != OK) return code;
    return sscanf(v, "%llu %llu %llu", total, reserved, used) == 3 ? OK : INVALID;
}
int nvmlDeviceGetMemoryInfo(device_t *d, u64 *out) {
    u64 total, reserved, used;
    CALLED;
    int code = memory(d, &total, &reserved, &used);
    if (code != OK) return code;
    out[0] = total;
    out[2] = used + reserved;
    out[1] = total - out[2];
    return OK;
}
typedef struct { u32 version; u64 total, reserved, free, used; } memory_v2_t;
int nvmlDeviceGetMemoryInfo_v2(device_t *d, memory_v2_t *out) {
    CALLED;
    if (out->version != 0x02000028) return VERSION;
    int code = memory(d, &out->total, &out->reserved, &out->used);
    if (code == OK) out->free = out->total - out->reserved - out->used;
    return code;
}
typedef struct { u32 id, scope; long long at, latency; u32 type, code; union { double d; u64 u; } value; } field_t;
int nvmlDeviceGetFieldValues(device_t *d, int count, field_t *fields) {
    char key[SHORT], v[LONG];
    CALLED;
    int code = text(d->name, "fields", v, sizeof v);
    if (code != OK && code != UNSUPPORTED) return code;
    for (int i = 0; i < count; i++) {
        u32 value = 0;
        snprintf(key, sizeof key, "field.%u", fields[i].id);
        fields[i].code = (u32)small(d->name, key, &value);
        fields[i].type = 1;
        fields[i].value.u = value;
    }
    return OK;
}
int nvmlDeviceGetPowerUsage(device_t *d, u32 *out) { CALLED; return small(d->name, "power", out); }
int nvmlDeviceGetEnforcedPowerLimit(device_t *d, u32 *out) { CALLED; return small(d->name, "power_limit", out); }
int nvmlDeviceGetTotalEnergyConsumption(device_t *d, u64 *out) { CALLED; return whole(d->name, "energy", out); }
int nvmlDeviceGetTemperature(device_t *d, u32 sensor, u32 *out) {
    (void)sensor;
    CALLED;
    return small(d->name, "temperature", out);
}
int nvmlDeviceGetClockInfo(device_t *d, u32 kind, u32 *out) {
    char key[SHORT];
    CALLED;
    snprintf(key, sizeof key, "clock.%u", kind);
    return small(d->name, key, out);
}
int nvmlDeviceGetCurrentClocksEventReasons(device_t *d, u64 *out) { CALLED; return whole(d->name, "reasons", out); }
int nvmlDeviceGetCurrentClocksThrottleReasons(device_t *d, u64 *out) { CALLED; return whole(d->name, "reasons", out); }
int nvmlDeviceGetTotalEccErrors(device_t *d, u32 kind, u32 counter, u64 *out) {
    (void)counter;
    CALLED;
    return whole(d->name, kind ? "ecc_uncorrected" : "ecc_corrected", out);
}
int nvmlDeviceGetRemappedRows(device_t *d, u32 *corrected, u32 *uncorrected, u32 *pending, u32 *failed) {
    char v[LONG];
    CALLED;
    int code = text(d->name, "remapped", v, sizeof v);
    if (code != OK) return code;
    return sscanf(v, "%u %u %u %u", corrected, uncorrected, pending, failed) == 4 ? OK : INVALID;
}

/* --- processes: `proc PID BYTES [GI CI]`, bytes -1 = not available ------------------------------------------------- */
typedef struct { u32 pid; u64 bytes; u32 gi, ci; } process_t;
static int processes(device_t *d, const char *key, u32 *count, process_t *out) {
    static __thread char values[ROWS][LONG];
    int found = lookup(d->name, key, values, ROWS);
    u32 room = *count;
    for (int i = 0; i < found; i++) {
        char *v = values[i];
        int code = meaning(&v);
        if (code != OK) return code;
    }
    *count = (u32)found;
    if (!found) return OK;
    if (!out || room < (u32)found) return SMALL;
    for (int i = 0; i < found; i++) {
        char *v = values[i];
        long long bytes = -1;
        out[i].gi = out[i].ci = 0xFFFFFFFFu;
        meaning(&v);
        sscanf(v, "%u %lld %u %u", &out[i].pid, &bytes, &out[i].gi, &out[i].ci);
        out[i].bytes = (u64)bytes;
    }
    return OK;
}
int nvmlDeviceGetComputeRunningProcesses_v3(device_t *d, u32 *n, process_t *out) { CALLED; return processes(d, "proc", n, out); }
int nvmlDeviceGetGraphicsRunningProcesses_v3(device_t *d, u32 *n, process_t *out) { CALLED; return processes(d, "graphics", n, out); }
int nvmlDeviceGetMPSComputeRunningProcesses_v3(device_t *d, u32 *n, process_t *out) { CALLED; return processes(d, "mps", n, out); }

/* `sample PID TIMESTAMP SM`: only those after `since` are given; none -> NOT_FOUND; no buffer -> a fixed size. */
typedef struct { u32 pid; u64 at; u32 sm, mem, enc, dec; } sample_t;
int nvmlDeviceGetProcessUtilization(device_t *d, sample_t *out, u32 *count, u64 since) {
    static __thread char values[ROWS][LONG];
    u32 n = 0;
    CALLED;
    int found = lookup(d->name, "sample", values, ROWS);
    for (int i = 0; i < found; i++) {
        char *v = values[i];
        int code = meaning(&v);
        if (code != OK) return code;
    }
    if (!out) { *count = 100; return SMALL; }
    for (int i = 0; i < found && n < *count; i++) {
        sample_t s = {0};
        sscanf(values[i], "%u %llu %u %u %u %u", &s.pid, &s.at, &s.sm, &s.mem, &s.enc, &s.dec);
        if (s.at > since) out[n++] = s;
    }
    *count = n;
    return n ? OK : NOT_FOUND;
}

/* --- GPM: `gpm_support 1`, `gpm.2 55.5` ---------------------------------------------------------------------------- */
typedef struct { char name[16]; u64 serial; } gpm_sample_t;
typedef struct { u32 id; int code; double value; char *text[3]; } gpm_metric_t;
typedef struct { u32 version, count; gpm_sample_t *first, *second; gpm_metric_t metrics[]; } gpm_get_t;
int nvmlGpmQueryDeviceSupport(device_t *d, u32 *out) {
    CALLED;
    return out[0] == 1 ? small(d->name, "gpm_support", &out[1]) : VERSION;
}
int nvmlGpmSampleAlloc(gpm_sample_t **out) { CALLED; *out = calloc(1, sizeof **out); return OK; }
int nvmlGpmSampleFree(gpm_sample_t *s) { CALLED; free(s); return OK; }
static int gpm_take(const char *name, gpm_sample_t *s) {
    static u64 serial;
    char v[LONG];
    int code = text(name, "gpm", v, sizeof v);
    snprintf(s->name, sizeof s->name, "%s", name);
    s->serial = ++serial;
    return code == UNSUPPORTED ? OK : code;
}
int nvmlGpmSampleGet(device_t *d, gpm_sample_t *s) { CALLED; return gpm_take(d->name, s); }
int nvmlGpmMigSampleGet(device_t *d, u32 instance, gpm_sample_t *s) {
    CALLED;
    for (int mig = 0; mig < 16; mig++) {
        device_t *m = device(d->gpu, mig);
        u32 gi;
        if (small(m->name, "gi", &gi) == OK && gi == instance) return gpm_take(m->name, s);
    }
    return INVALID;
}
int nvmlGpmMetricsGet(gpm_get_t *get) {
    char key[SHORT];
    CALLED;
    if (get->version != 1) return VERSION;
    if (!get->first->serial || get->first->serial >= get->second->serial) return INVALID;
    for (u32 i = 0; i < get->count; i++) {
        snprintf(key, sizeof key, "gpm.%u", get->metrics[i].id);
        get->metrics[i].code = number(get->second->name, key, &get->metrics[i].value);
    }
    return OK;
}

/* --- events: `event SEQUENCE DATA [TYPE]`, each sequence is delivered once --------------------------------------------- */
typedef struct { device_t *device; u64 type, data; u32 gi, ci; } event_t;
int nvmlEventSetCreate(int **out) { CALLED; *out = calloc(1, sizeof(int)); return OK; }
int nvmlEventSetFree(int *set) { CALLED; free(set); return OK; }
int nvmlDeviceGetSupportedEventTypes(device_t *d, u64 *out) { CALLED; return whole(d->name, "event_types", out); }
int nvmlDeviceRegisterEvents(device_t *d, u64 types, int *set) { (void)d; (void)types; (void)set; CALLED; return OK; }
int nvmlEventSetWait_v2(int *set, event_t *out, u32 timeout) {
    static char values[ROWS][LONG];
    u32 count = 0;
    (void)set;
    for (u32 waited = 0;; waited += 20) {
        small("-", "count", &count);
        for (int gpu = 0; gpu < (int)count && gpu < 32; gpu++) {
            device_t *d = device(gpu, -1);
            int found = lookup(d->name, "event", values, ROWS);
            for (int i = 0; i < found; i++) {
                u64 sequence = 0, data = 0, type = 8;
                sscanf(values[i], "%llu %llu %llu", &sequence, &data, &type);
                if (sequence <= last_event) continue;
                last_event = sequence;
                *out = (event_t){d, type, data, 0xFFFFFFFFu, 0xFFFFFFFFu};
                return OK;
            }
        }
        if (waited >= timeout) return TIMEOUT;
        usleep(20000);
    }
}
