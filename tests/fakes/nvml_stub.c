/* A libnvidia-ml.so.1 whose world is a text file, looked at again on every call, so that a test changes the world by
   replacing the file. Loaded by the unmodified pynvml. Structure layouts: nvml.h of CUDA 13, x86-64.

   Environment:
     NVML_STUB_SCENARIO  the file
     NVML_STUB_CALLS     optional: gets the name of every call, one a line
     NVML_STUB_EVENTS    optional: a FIFO; `GPU XID [TYPE [GI CI]]` typed into it is an event, `!999` a failing wait
     NVML_STUB_CPU       optional: 16 bytes that add up the calls and the CPU nanoseconds spent in this library

   A line of the file is `device key value...`. The device is `-` (the library), `0`, `1`... (GPU by index) or `0.2`
   (third MIG device of GPU 0). A value `!15` makes the call answer error 15, `~1500 v` sleeps 1500 ms first and then
   means `v`. The last line of a key wins, except for lists (proc, graphics, mps, sample, event), where every line is
   an entry. A key that is not there answers NOT_SUPPORTED.
   Three keys are about calls instead of values, and know `~ms`, `!code` and `!code*times` (that often only, then as
   usual): `0 call.nvmlDeviceGetName !4` one call on one device, `- call.nvmlInitWithFlags ~500` on any device, and
   `0 all !15` every call on that device. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

typedef unsigned int u32;
typedef unsigned long long u64;
enum { OK = 0, UNINITIALIZED = 1, INVALID = 2, UNSUPPORTED = 3, NOT_FOUND = 6, SMALL = 7, TIMEOUT = 10, VERSION = 25 };
#define ROWS 1024
#define SHORT 96
#define LONG 128
#define NONE 0xFFFFFFFFu
#define GPUS 32

/* `uuid` is filled for MIG devices only: their handles die when the GPU is partitioned anew. */
typedef struct { char name[16]; int gpu, mig; char uuid[LONG]; } device_t;

/* --- the file ---------------------------------------------------------------------------------------------------- */
typedef struct { u32 hash; const char *device, *key, *value; } line_t;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static char *content;
static line_t *lines;
static size_t line_count;
static struct stat seen;

static u32 hashed(const char *device, const char *key) {
    u32 h = 2166136261u;
    for (; *device; device++) h = (h ^ (unsigned char)*device) * 16777619u;
    h = (h ^ ' ') * 16777619u;
    for (; *key; key++) h = (h ^ (unsigned char)*key) * 16777619u;
    return h;
}

static char *word(char **rest) {
    while (**rest == ' ' || **rest == '\t') (*rest)++;
    char *start = *rest;
    while (**rest && **rest != ' ' && **rest != '\t') (*rest)++;
    if (**rest) *(*rest)++ = 0;
    return start;
}

static void parse(char *text) {
    size_t room = 16;
    free(lines);
    free(content);
    content = text;
    lines = malloc(room * sizeof *lines);
    line_count = 0;
    for (char *line = text, *next; line && *line; line = next) {
        next = strchr(line, '\n');
        if (next) *next++ = 0;
        char *device = word(&line), *key = word(&line);
        if (!*key || *device == '#') continue;
        while (*line == ' ' || *line == '\t') line++;
        if (line_count == room) lines = realloc(lines, (room *= 2) * sizeof *lines);
        lines[line_count++] = (line_t){hashed(device, key), device, key, line};
    }
}

/* Replaced files differ in their inode, edited ones in size or time. */
static void look(void) {
    const char *path = getenv("NVML_STUB_SCENARIO");
    struct stat now;
    if (!path || stat(path, &now)) { memset(&seen, 0, sizeof seen); line_count = 0; return; }
    if (now.st_ino == seen.st_ino && now.st_size == seen.st_size && now.st_mtim.tv_sec == seen.st_mtim.tv_sec &&
        now.st_mtim.tv_nsec == seen.st_mtim.tv_nsec)
        return;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &now)) { if (fd >= 0) close(fd); return; }
    char *text = calloc(1, (size_t)now.st_size + 1);
    ssize_t got = 0, part;
    while (got < now.st_size && (part = read(fd, text + got, (size_t)(now.st_size - got))) > 0) got += part;
    close(fd);
    seen = now;
    parse(text);
}

/* The newest values of a key, oldest first; returns how many. */
static int lookup(const char *device, const char *key, char values[][LONG], int room) {
    u32 wanted = hashed(device, key);
    int count = 0;
    pthread_mutex_lock(&lock);
    look();
    for (size_t i = line_count; i-- > 0 && count < room;)
        if (lines[i].hash == wanted && !strcmp(lines[i].device, device) && !strcmp(lines[i].key, key))
            snprintf(values[count++], LONG, "%s", lines[i].value);
    pthread_mutex_unlock(&lock);
    for (int i = 0; i < count / 2; i++) {
        char swap[LONG];
        memcpy(swap, values[i], LONG);
        memcpy(values[i], values[count - 1 - i], LONG);
        memcpy(values[count - 1 - i], swap, LONG);
    }
    return count;
}

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

static int text(const char *device, const char *key, char *out, u32 size) {
    char values[1][LONG], *v = values[0];
    int code;
    if (!lookup(device, key, values, 1)) return UNSUPPORTED;
    if ((code = meaning(&v)) != OK) return code;
    if (strlen(v) >= size) return SMALL;
    memcpy(out, v, strlen(v) + 1);
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
    if (code == OK) *out = strtoull(v, NULL, 0);
    return code;
}

static int small(const char *device, const char *key, u32 *out) {
    u64 v;
    int code = whole(device, key, &v);
    if (code == OK) *out = (u32)v;
    return code;
}

/* --- every call ---------------------------------------------------------------------------------------------------- */
static int opened;
static struct { u32 hash; int times; } spent[64];

/* `!code*times` of one line: whether it still answers, which uses one up. */
static int still(u32 hash, const char *value) {
    const char *star = strchr(value, '*');
    if (!star) return 1;
    for (int i = 0; i < 64; i++) {
        if (spent[i].hash && spent[i].hash != hash) continue;
        spent[i].hash = hash;
        return spent[i].times++ < atoi(star + 1);
    }
    return 0;
}

static int told(const char *device, const char *key) {
    char values[1][LONG], *v = values[0];
    if (!lookup(device, key, values, 1)) return OK;
    if (!still(hashed(device, key), values[0])) return OK;
    return meaning(&v);
}

static void count(const char *name) {
    const char *path = getenv("NVML_STUB_CALLS");
    char line[SHORT];
    if (!path) return;
    int fd = open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0644);
    if (fd < 0) return;
    int size = snprintf(line, sizeof line, "%s\n", name);
    if (write(fd, line, (size_t)size) != size) abort();
    close(fd);
}

static int called(const char *name, const device_t *d) {
    char key[SHORT], uuid[LONG];
    int code;
    count(name);
    if (!opened && strncmp(name, "nvmlInit", 8)) return UNINITIALIZED;
    snprintf(key, sizeof key, "call.%s", name);
    if ((code = told("-", key)) != OK || !d) return code;
    if ((code = told(d->name, key)) != OK || (code = told(d->name, "all")) != OK) return code;
    if (d->mig >= 0 && (text(d->name, "uuid", uuid, sizeof uuid) != OK || strcmp(uuid, d->uuid))) return INVALID;
    return OK;
}

static u64 *cpu(void) {
    static u64 *shared;
    static int looked;
    const char *path = looked ? NULL : getenv("NVML_STUB_CPU");
    looked = 1;
    if (path) {
        int fd = open(path, O_RDWR | O_CLOEXEC);
        void *at = fd < 0 ? MAP_FAILED : mmap(NULL, 16, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        if (fd >= 0) close(fd);
        if (at != MAP_FAILED) shared = at;
    }
    return shared;
}

static u64 now(void) {
    struct timespec t;
    if (!cpu()) return 0;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (u64)t.tv_sec * 1000000000u + (u64)t.tv_nsec;
}

static void leave(const u64 *entered) {
    if (!*entered) return;
    __atomic_fetch_add(cpu(), 1, __ATOMIC_RELAXED);
    __atomic_fetch_add(cpu() + 1, now() - *entered, __ATOMIC_RELAXED);
}

#define CALLED(device) \
    __attribute__((cleanup(leave))) u64 entered_ = now(); \
    int refused_ = called(__func__, device); \
    if (refused_ != OK) return refused_
#define CALLED_ON(device) \
    if (!(device)) return INVALID; \
    CALLED(device)

/* --- library ------------------------------------------------------------------------------------------------------ */
int nvmlInitWithFlags(u32 flags) {
    char v[LONG];
    (void)flags;
    CALLED(NULL);
    int code = text("-", "init", v, sizeof v);
    if (code != UNSUPPORTED && code != OK) return code;
    opened++;
    return OK;
}
int nvmlInit_v2(void) { return nvmlInitWithFlags(0); }
int nvmlShutdown(void) { CALLED(NULL); opened--; return OK; }
int nvmlSystemGetDriverVersion(char *out, u32 size) { CALLED(NULL); return text("-", "driver", out, size); }
int nvmlSystemGetNVMLVersion(char *out, u32 size) { CALLED(NULL); return text("-", "nvml", out, size); }
int nvmlSystemGetCudaDriverVersion(int *out) { CALLED(NULL); return small("-", "cuda", (u32 *)out); }
int nvmlDeviceGetCount_v2(u32 *out) { CALLED(NULL); return small("-", "count", out); }

/* --- devices ------------------------------------------------------------------------------------------------------ */
static device_t gpus[GPUS], migs[256];

static device_t *whole_gpu(int gpu) {
    device_t *d = &gpus[gpu];
    d->gpu = gpu;
    d->mig = -1;
    snprintf(d->name, sizeof d->name, "%d", gpu);
    return d;
}

/* The handle of the MIG device in a place, NULL when the place is empty. */
static device_t *mig_device(int gpu, int place) {
    char name[16], uuid[LONG];
    device_t *found = NULL;
    snprintf(name, sizeof name, "%d.%d", gpu, place);
    if (text(name, "uuid", uuid, sizeof uuid) != OK) return NULL;
    pthread_mutex_lock(&lock);
    for (int i = 0; i < 256 && !found; i++) {
        device_t *d = &migs[i];
        if (!*d->uuid) {
            memcpy(d->name, name, sizeof name);
            memcpy(d->uuid, uuid, sizeof uuid);
            d->gpu = gpu;
            d->mig = place;
        }
        if (!strcmp(d->uuid, uuid) && !strcmp(d->name, name)) found = d;
    }
    pthread_mutex_unlock(&lock);
    return found;
}

static int gpu_count(void) {
    u32 found = 0;
    small("-", "count", &found);
    return found < GPUS ? (int)found : GPUS;
}

int nvmlDeviceGetHandleByIndex_v2(u32 index, device_t **out) {
    char v[LONG];
    CALLED(NULL);
    if (index >= (u32)gpu_count()) return INVALID;
    *out = whole_gpu((int)index);
    int code = text((*out)->name, "handle", v, sizeof v);
    return code == UNSUPPORTED ? OK : code;
}
int nvmlDeviceGetHandleByUUID(const char *uuid, device_t **out) {
    char v[LONG];
    CALLED(NULL);
    for (int gpu = 0; gpu < gpu_count(); gpu++) {
        *out = whole_gpu(gpu);
        if (text((*out)->name, "uuid", v, sizeof v) == OK && !strcmp(v, uuid)) return OK;
        for (int place = 0; place < 16; place++)
            if ((*out = mig_device(gpu, place)) && !strcmp((*out)->uuid, uuid)) return OK;
    }
    return NOT_FOUND;
}
int nvmlDeviceGetHandleByPciBusId_v2(const char *bus, device_t **out) {
    char v[LONG];
    CALLED(NULL);
    for (int gpu = 0; gpu < gpu_count(); gpu++) {
        *out = whole_gpu(gpu);
        if (text((*out)->name, "pci", v, sizeof v) == OK && !strcasecmp(v, bus)) return OK;
    }
    return NOT_FOUND;
}
int nvmlDeviceGetIndex(device_t *d, u32 *out) {
    CALLED_ON(d);
    *out = (u32)(d->mig < 0 ? d->gpu : d->mig);
    return OK;
}
int nvmlDeviceGetUUID(device_t *d, char *out, u32 size) { CALLED_ON(d); return text(d->name, "uuid", out, size); }
int nvmlDeviceGetName(device_t *d, char *out, u32 size) { CALLED_ON(d); return text(d->name, "name", out, size); }
int nvmlDeviceGetSerial(device_t *d, char *out, u32 size) { CALLED_ON(d); return text(d->name, "serial", out, size); }
int nvmlDeviceGetVbiosVersion(device_t *d, char *out, u32 size) { CALLED_ON(d); return text(d->name, "vbios", out, size); }
int nvmlDeviceGetMinorNumber(device_t *d, u32 *out) { CALLED_ON(d); return small(d->name, "minor", out); }
typedef struct { char legacy[16]; u32 domain, bus, device, id, subsystem; char bus_id[32]; } pci_t;
int nvmlDeviceGetPciInfo_v3(device_t *d, pci_t *out) {
    CALLED_ON(d);
    memset(out, 0, sizeof *out);
    int code = text(d->name, "pci", out->bus_id, sizeof out->bus_id);
    if (code != OK) return code;
    sscanf(out->bus_id, "%x:%x:%x", &out->domain, &out->bus, &out->device);
    snprintf(out->legacy, sizeof out->legacy, "%04x:%02x:%02x.0", out->domain & 0xFFFF, out->bus & 0xFF, out->device & 0xFF);
    small(d->name, "pci_id", &out->id);
    return OK;
}
int nvmlDeviceGetMaxPcieLinkGeneration(device_t *d, u32 *out) { CALLED_ON(d); return small(d->name, "pcie_generation_max", out); }
int nvmlDeviceGetMaxPcieLinkWidth(device_t *d, u32 *out) { CALLED_ON(d); return small(d->name, "pcie_width_max", out); }
int nvmlDeviceGetCurrPcieLinkGeneration(device_t *d, u32 *out) { CALLED_ON(d); return small(d->name, "pcie_generation", out); }
int nvmlDeviceGetCurrPcieLinkWidth(device_t *d, u32 *out) { CALLED_ON(d); return small(d->name, "pcie_width", out); }

/* --- MIG: `mig CURRENT [PENDING]`, `gi N`, `ci N`, `attributes SM CE DEC ENC JPG OFA GI-SLICES CI-SLICES MB` --------- */
int nvmlDeviceGetMigMode(device_t *d, u32 *current, u32 *pending) {
    char v[LONG];
    CALLED_ON(d);
    int code = text(d->name, "mig", v, sizeof v);
    if (code != OK) return code;
    if (sscanf(v, "%u %u", current, pending) < 2) *pending = *current;
    return OK;
}
int nvmlDeviceGetMaxMigDeviceCount(device_t *d, u32 *out) {
    CALLED_ON(d);
    *out = 7;
    int code = small(d->name, "mig_max", out);
    return code == UNSUPPORTED ? OK : code;
}
int nvmlDeviceGetMigDeviceHandleByIndex(device_t *d, u32 index, device_t **out) {
    char name[16], v[LONG];
    CALLED_ON(d);
    if (d->mig >= 0 || index >= 16) return INVALID;
    if ((*out = mig_device(d->gpu, (int)index))) return OK;
    snprintf(name, sizeof name, "%d.%u", d->gpu, index);
    int code = text(name, "uuid", v, sizeof v);
    return code == UNSUPPORTED ? NOT_FOUND : code;
}
int nvmlDeviceGetGpuInstanceId(device_t *d, u32 *out) { CALLED_ON(d); return small(d->name, "gi", out); }
int nvmlDeviceGetComputeInstanceId(device_t *d, u32 *out) { CALLED_ON(d); return small(d->name, "ci", out); }
int nvmlDeviceGetDeviceHandleFromMigDeviceHandle(device_t *d, device_t **out) {
    CALLED_ON(d);
    if (d->mig < 0) return INVALID;
    *out = whole_gpu(d->gpu);
    return OK;
}
int nvmlDeviceIsMigDeviceHandle(device_t *d, u32 *out) { CALLED_ON(d); *out = d->mig >= 0; return OK; }
typedef struct { u32 counts[8]; u64 megabytes; } attributes_t;
int nvmlDeviceGetAttributes_v2(device_t *d, attributes_t *out) {
    char v[LONG];
    u32 *n = out->counts;
    CALLED_ON(d);
    int code = text(d->name, "attributes", v, sizeof v);
    if (code != OK) return code;
    return sscanf(v, "%u %u %u %u %u %u %u %u %llu", n, n + 1, n + 2, n + 3, n + 4, n + 5, n + 6, n + 7,
                  &out->megabytes) == 9 ? OK : INVALID;
}

/* --- readings ----------------------------------------------------------------------------------------------------- */
int nvmlDeviceGetUtilizationRates(device_t *d, u32 *out) {
    CALLED_ON(d);
    out[1] = 0;
    int code = small(d->name, "busy", &out[0]);
    small(d->name, "memory_busy", &out[1]);
    return code;
}
/* `encoder PERCENT [PERIOD-US]` and the like. */
static int engine(device_t *d, const char *key, u32 *out, u32 *period) {
    char v[LONG];
    int code = text(d->name, key, v, sizeof v);
    *period = 167000;
    if (code == OK) sscanf(v, "%u %u", out, period);
    return code;
}
int nvmlDeviceGetEncoderUtilization(device_t *d, u32 *out, u32 *period) { CALLED_ON(d); return engine(d, "encoder", out, period); }
int nvmlDeviceGetDecoderUtilization(device_t *d, u32 *out, u32 *period) { CALLED_ON(d); return engine(d, "decoder", out, period); }
int nvmlDeviceGetJpgUtilization(device_t *d, u32 *out, u32 *period) { CALLED_ON(d); return engine(d, "jpeg", out, period); }
int nvmlDeviceGetOfaUtilization(device_t *d, u32 *out, u32 *period) { CALLED_ON(d); return engine(d, "ofa", out, period); }
/* `memory TOTAL RESERVED USED`: version 1 counts the reserved part as used, version 2 does not. */
static int memory(device_t *d, u64 *total, u64 *reserved, u64 *used) {
    char v[LONG];
    int code = text(d->name, "memory", v, sizeof v);
    if (code != OK) return code;
    return sscanf(v, "%llu %llu %llu", total, reserved, used) == 3 ? OK : INVALID;
}
int nvmlDeviceGetMemoryInfo(device_t *d, u64 *out) {
    u64 total, reserved, used;
    CALLED_ON(d);
    int code = memory(d, &total, &reserved, &used);
    if (code != OK) return code;
    out[0] = total;
    out[2] = used + reserved;
    out[1] = total - out[2];
    return OK;
}
typedef struct { u32 version; u64 total, reserved, free, used; } memory_v2_t;
int nvmlDeviceGetMemoryInfo_v2(device_t *d, memory_v2_t *out) {
    CALLED_ON(d);
    if (out->version != 0x02000028) return VERSION;
    int code = memory(d, &out->total, &out->reserved, &out->used);
    if (code == OK) out->free = out->total - out->reserved - out->used;
    return code;
}
/* `field.186 VALUE [TYPE]`, or `field.138.SCOPE` for one link. Types (nvmlValueType_t): 0 double, 1 u32, 2 and 3 u64.
   As in the driver, a u32 leaves the other half of the value as the caller passed it. */
typedef union { double d; u32 narrow; u64 u; } value_t;
typedef struct { u32 id, scope; long long at, latency; u32 type, code; value_t value; } field_t;
static u32 usual_type(u32 id) {
    return (id >= 138 && id <= 141) || id == 197 || id == 198 || (id >= 269 && id <= 271) ? 3 : 1;
}
int nvmlDeviceGetFieldValues(device_t *d, int count, field_t *fields) {
    char key[SHORT], v[LONG];
    struct timespec t;
    CALLED_ON(d);
    int code = text(d->name, "fields", v, sizeof v);
    if (code != OK && code != UNSUPPORTED) return code;
    clock_gettime(CLOCK_REALTIME, &t);
    for (int i = 0; i < count; i++) {
        field_t *f = &fields[i];
        snprintf(key, sizeof key, "field.%u.%u", f->id, f->scope);
        code = text(d->name, key, v, sizeof v);
        snprintf(key, sizeof key, "field.%u", f->id);
        if (code == UNSUPPORTED) code = text(d->name, key, v, sizeof v);
        f->code = (u32)code;
        f->at = t.tv_sec * 1000000LL + t.tv_nsec / 1000;
        f->latency = 0;
        f->type = usual_type(f->id);
        if (code != OK) continue;
        char *rest;
        u64 value = strtoull(v, &rest, 0);
        if (*rest == ' ') f->type = (u32)atoi(rest);
        if (f->type == 0) f->value.d = strtod(v, NULL);
        else if (f->type == 1) f->value.narrow = (u32)value;
        else f->value.u = value;
    }
    return OK;
}
int nvmlDeviceGetPowerUsage(device_t *d, u32 *out) { CALLED_ON(d); return small(d->name, "power", out); }
int nvmlDeviceGetEnforcedPowerLimit(device_t *d, u32 *out) { CALLED_ON(d); return small(d->name, "power_limit", out); }
int nvmlDeviceGetTotalEnergyConsumption(device_t *d, u64 *out) { CALLED_ON(d); return whole(d->name, "energy", out); }
int nvmlDeviceGetTemperature(device_t *d, u32 sensor, u32 *out) {
    CALLED_ON(d);
    return sensor ? INVALID : small(d->name, "temperature", out);
}
int nvmlDeviceGetMarginTemperature(device_t *d, u32 *out) {
    CALLED_ON(d);
    return out[0] == 0x01000008 ? small(d->name, "temperature_margin", &out[1]) : VERSION;
}
int nvmlDeviceGetFanSpeed(device_t *d, u32 *out) { CALLED_ON(d); return small(d->name, "fan", out); }
int nvmlDeviceGetPerformanceState(device_t *d, u32 *out) { CALLED_ON(d); return small(d->name, "pstate", out); }
int nvmlDeviceGetClockInfo(device_t *d, u32 kind, u32 *out) {
    char key[SHORT];
    CALLED_ON(d);
    snprintf(key, sizeof key, "clock.%u", kind);
    return small(d->name, key, out);
}
int nvmlDeviceGetMaxClockInfo(device_t *d, u32 kind, u32 *out) {
    char key[SHORT];
    CALLED_ON(d);
    snprintf(key, sizeof key, "clock_max.%u", kind);
    return small(d->name, key, out);
}
int nvmlDeviceGetCurrentClocksEventReasons(device_t *d, u64 *out) { CALLED_ON(d); return whole(d->name, "reasons", out); }
int nvmlDeviceGetCurrentClocksThrottleReasons(device_t *d, u64 *out) { CALLED_ON(d); return whole(d->name, "reasons", out); }
/* Blocks 20 ms for each direction, as the driver does: a call to keep away from. */
int nvmlDeviceGetPcieThroughput(device_t *d, u32 counter, u32 *out) {
    CALLED_ON(d);
    usleep(20000);
    return small(d->name, counter ? "pcie_receive" : "pcie_transmit", out);
}

/* --- health --------------------------------------------------------------------------------------------------------- */
int nvmlDeviceGetTotalEccErrors(device_t *d, u32 kind, u32 counter, u64 *out) {
    char key[SHORT];
    CALLED_ON(d);
    snprintf(key, sizeof key, "ecc_%s%s", kind ? "uncorrected" : "corrected", counter ? "_aggregate" : "");
    return whole(d->name, key, out);
}
int nvmlDeviceGetRemappedRows(device_t *d, u32 *corrected, u32 *uncorrected, u32 *pending, u32 *failed) {
    char v[LONG];
    CALLED_ON(d);
    int code = text(d->name, "remapped", v, sizeof v);
    if (code != OK) return code;
    return sscanf(v, "%u %u %u %u", corrected, uncorrected, pending, failed) == 4 ? OK : INVALID;
}
/* `retired.CAUSE COUNT`: cause 0 = many single-bit errors, 1 = a double-bit error. Before Ampere. */
int nvmlDeviceGetRetiredPages(device_t *d, u32 cause, u32 *count, u64 *pages) {
    char key[SHORT];
    u32 found = 0, room = *count;
    CALLED_ON(d);
    snprintf(key, sizeof key, "retired.%u", cause);
    int code = small(d->name, key, &found);
    if (code != OK) return code;
    *count = found;
    if (found && (!pages || room < found)) return SMALL;
    for (u32 i = 0; i < found; i++) pages[i] = 0x1000 * (i + 1);
    return OK;
}
int nvmlDeviceGetRetiredPagesPendingStatus(device_t *d, u32 *out) { CALLED_ON(d); return small(d->name, "retired_pending", out); }
int nvmlDeviceGetPcieReplayCounter(device_t *d, u32 *out) { CALLED_ON(d); return small(d->name, "pcie_replays", out); }

/* --- processes: `proc PID BYTES [GI CI]`, bytes -1 = not available ---------------------------------------------------
   `- list_rows 32`: drivers 535.43 to 535.86 wrote rows of 32 bytes where callers expect 24.
   `0 list_race 1`: so often, a process more has come between the question for the size and the list. */
typedef struct { u32 pid, pad; u64 bytes; u32 gi, ci; } process_t;
typedef struct { process_t row; u64 protected; } wide_process_t;
_Static_assert(sizeof(process_t) == 24 && sizeof(wide_process_t) == 32, "rows as in nvml.h");

static int processes(device_t *d, const char *key, u32 *count, process_t *out) {
    static __thread char values[ROWS][LONG];
    static __thread wide_process_t rows[ROWS];
    static int races;
    device_t *board = whole_gpu(d->gpu);
    int listed = lookup(board->name, key, values, ROWS), found = 0;
    u32 room = *count, wide = 24, gi = NONE, ci = NONE, wanted = 0;
    if (d->mig >= 0) { small(d->name, "gi", &gi); small(d->name, "ci", &ci); }
    for (int i = 0; i < listed; i++) {
        char *v = values[i];
        long long bytes = -1;
        process_t row = {.gi = NONE, .ci = NONE};
        int code = meaning(&v);
        if (code != OK) return code;
        sscanf(v, "%u %lld %u %u", &row.pid, &bytes, &row.gi, &row.ci);
        row.bytes = (u64)bytes;
        if (d->mig < 0 || (row.gi == gi && row.ci == ci)) rows[found++] = (wide_process_t){row, (u64)-1};
    }
    *count = (u32)found;
    if (!found) return OK;
    small(d->name, "list_race", &wanted);
    if (out && races < (int)wanted) { races++; return SMALL; }
    if (!out || room < (u32)found) return SMALL;
    small("-", "list_rows", &wide);
    if (wide == sizeof rows[0]) {
        size_t size = (size_t)found * sizeof rows[0], place = (size_t)room * sizeof *out;
        memcpy(out, rows, size < place ? size : place);
    } else
        for (int i = 0; i < found; i++) out[i] = rows[i].row;
    return OK;
}
#define LIST(name, key) \
    int name(device_t *d, u32 *n, process_t *out) { CALLED_ON(d); return processes(d, key, n, out); }
LIST(nvmlDeviceGetComputeRunningProcesses_v3, "proc")
LIST(nvmlDeviceGetComputeRunningProcesses_v2, "proc")
LIST(nvmlDeviceGetGraphicsRunningProcesses_v3, "graphics")
LIST(nvmlDeviceGetGraphicsRunningProcesses_v2, "graphics")
LIST(nvmlDeviceGetMPSComputeRunningProcesses_v3, "mps")
LIST(nvmlDeviceGetMPSComputeRunningProcesses_v2, "mps")

/* `sample PID TIMESTAMP SM MEM ENC DEC JPG OFA`: only those after `since` are given; none -> NOT_FOUND; no buffer ->
   a size that says nothing. `0 whole_ring 1`: a driver that gives old rows too. */
typedef struct { u64 at; u32 pid, sm, mem, enc, dec, jpg, ofa; } info_t;
typedef struct { u32 pid; u64 at; u32 sm, mem, enc, dec; } sample_t;
_Static_assert(sizeof(info_t) == 40 && sizeof(sample_t) == 32, "samples as in nvml.h");

static int samples(device_t *d, u64 since, info_t *out, u32 *count) {
    static __thread char values[ROWS][LONG];
    int found = lookup(d->name, "sample", values, ROWS);
    u32 n = 0, whole_ring = 0;
    small(d->name, "whole_ring", &whole_ring);
    if (whole_ring) since = 0;
    for (int i = 0; i < found; i++) {
        char *v = values[i];
        info_t s = {0};
        int code = meaning(&v);
        if (code != OK) return code;
        sscanf(v, "%u %llu %u %u %u %u %u %u", &s.pid, &s.at, &s.sm, &s.mem, &s.enc, &s.dec, &s.jpg, &s.ofa);
        if (out && s.at > since && n < *count) out[n++] = s;
    }
    if (!out) { *count = 100; return SMALL; }
    *count = n;
    return n ? OK : NOT_FOUND;
}
int nvmlDeviceGetProcessUtilization(device_t *d, sample_t *out, u32 *count, u64 since) {
    info_t found[100];
    CALLED_ON(d);
    if (*count > 100) *count = 100;
    int code = samples(d, since, out ? found : NULL, count);
    for (u32 i = 0; out && code == OK && i < *count; i++)
        out[i] = (sample_t){found[i].pid, found[i].at, found[i].sm, found[i].mem, found[i].enc, found[i].dec};
    return code;
}
typedef struct { u32 version, count; u64 since; info_t *rows; } infos_t;
int nvmlDeviceGetProcessesUtilizationInfo(device_t *d, infos_t *get) {
    CALLED_ON(d);
    if (get->version != 0x01000018) return VERSION;
    return samples(d, get->since, get->rows, &get->count);
}

/* --- GPM: `gpm_support 1`, `gpm.2 55.5`; `gpm !4` refuses the sample ------------------------------------------------- */
typedef struct { char name[16]; u64 serial; } gpm_sample_t;
typedef struct { u32 id; int code; double value; char *text[3]; } gpm_metric_t;
typedef struct { u32 version, count; gpm_sample_t *first, *second; gpm_metric_t metrics[]; } gpm_get_t;
_Static_assert(sizeof(gpm_metric_t) == 40 && sizeof(gpm_get_t) == 24, "GPM as in nvml.h");

int nvmlGpmQueryDeviceSupport(device_t *d, u32 *out) {
    CALLED_ON(d);
    return out[0] == 1 ? small(d->name, "gpm_support", &out[1]) : VERSION;
}
int nvmlGpmSampleAlloc(gpm_sample_t **out) { CALLED(NULL); *out = calloc(1, sizeof **out); return OK; }
int nvmlGpmSampleFree(gpm_sample_t *s) { CALLED(NULL); free(s); return OK; }
static int gpm_take(const char *name, gpm_sample_t *s) {
    static u64 serial;
    char v[LONG];
    int code = text(name, "gpm", v, sizeof v);
    snprintf(s->name, sizeof s->name, "%s", name);
    s->serial = ++serial;
    return code == UNSUPPORTED ? OK : code;
}
int nvmlGpmSampleGet(device_t *d, gpm_sample_t *s) { CALLED_ON(d); return gpm_take(d->name, s); }
int nvmlGpmMigSampleGet(device_t *d, u32 instance, gpm_sample_t *s) {
    CALLED_ON(d);
    for (int place = 0; place < 16; place++) {
        device_t *m = mig_device(d->gpu, place);
        u32 gi;
        if (m && small(m->name, "gi", &gi) == OK && gi == instance) return gpm_take(m->name, s);
    }
    return INVALID;
}
int nvmlGpmMetricsGet(gpm_get_t *get) {
    char key[SHORT];
    CALLED(NULL);
    if (get->version != 1) return VERSION;
    if (!get->first || !get->second || !get->first->serial || get->first->serial >= get->second->serial) return INVALID;
    if (strcmp(get->first->name, get->second->name)) return INVALID;
    for (u32 i = 0; i < get->count; i++) {
        snprintf(key, sizeof key, "gpm.%u", get->metrics[i].id);
        get->metrics[i].code = number(get->second->name, key, &get->metrics[i].value);
    }
    return OK;
}

/* --- events: a line of the FIFO, or `event SEQUENCE DATA [TYPE]` in the file, each sequence delivered once ------------- */
typedef struct { device_t *device; u64 type, data; u32 gi, ci; } event_t;
typedef struct { int fifo; u64 wanted[GPUS]; } event_set_t;
_Static_assert(sizeof(event_t) == 32, "events as in nvml.h");

int nvmlEventSetCreate(event_set_t **out) {
    const char *path = getenv("NVML_STUB_EVENTS");
    CALLED(NULL);
    *out = calloc(1, sizeof **out);
    /* Open for writing too: with no writer at the other end, poll would report a hang-up for ever. */
    (*out)->fifo = path ? open(path, O_RDWR | O_NONBLOCK | O_CLOEXEC) : -1;
    return OK;
}
int nvmlEventSetFree(event_set_t *set) {
    CALLED(NULL);
    if (!set) return INVALID;
    if (set->fifo >= 0) close(set->fifo);
    free(set);
    return OK;
}
int nvmlDeviceGetSupportedEventTypes(device_t *d, u64 *out) { CALLED_ON(d); return whole(d->name, "event_types", out); }
int nvmlDeviceRegisterEvents(device_t *d, u64 types, event_set_t *set) {
    u64 supported = 0;
    CALLED_ON(d);
    if (!set || d->mig >= 0) return INVALID;
    int code = whole(d->name, "event_types", &supported);
    if (code != OK) return code;
    if (types & ~supported) return UNSUPPORTED;
    set->wanted[d->gpu] |= types;
    return OK;
}

static int typed(event_set_t *set, event_t *out, int milliseconds) {
    struct pollfd ready = {set->fifo, POLLIN, 0};
    char line[SHORT];
    size_t size = 0;
    u32 gpu = 0;
    if (poll(&ready, 1, milliseconds) <= 0) return TIMEOUT;
    while (size < sizeof line - 1 && read(set->fifo, line + size, 1) == 1 && line[size] != '\n') size++;
    line[size] = 0;
    if (*line == '!') return atoi(line + 1);
    *out = (event_t){NULL, 8, 0, NONE, NONE};
    if (sscanf(line, "%u %llu %llu %u %u", &gpu, &out->data, &out->type, &out->gi, &out->ci) < 2 || gpu >= GPUS) return TIMEOUT;
    out->device = whole_gpu((int)gpu);
    return set->wanted[gpu] & out->type ? OK : TIMEOUT;
}

static int written(event_set_t *set, event_t *out) {
    static char values[ROWS][LONG];
    static u64 last;
    for (int gpu = 0; gpu < gpu_count(); gpu++) {
        device_t *d = whole_gpu(gpu);
        int found = lookup(d->name, "event", values, ROWS);
        for (int i = 0; i < found; i++) {
            u64 sequence = 0, data = 0, type = 8;
            sscanf(values[i], "%llu %llu %llu", &sequence, &data, &type);
            if (sequence <= last) continue;
            last = sequence;
            if (!(set->wanted[gpu] & type)) continue;
            *out = (event_t){d, type, data, NONE, NONE};
            return OK;
        }
    }
    return TIMEOUT;
}

int nvmlEventSetWait_v2(event_set_t *set, event_t *out, u32 timeout) {
    CALLED(NULL);
    if (!set) return INVALID;
    int pause = set->fifo < 0 ? 20 : 100;
    for (int waited = 0;; waited += pause) {
        int code = written(set, out);
        if (code != TIMEOUT) return code;
        if (waited >= (int)timeout) return TIMEOUT;
        if (set->fifo < 0) usleep((u32)pause * 1000);
        else if ((code = typed(set, out, pause)) != TIMEOUT) return code;
        if (!opened) return UNINITIALIZED;
    }
}
