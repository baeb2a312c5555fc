/* Says what a binary file is made of: its size, CRC-32 and Adler-32, how often each byte occurs, and its
 * entropy. `file-facts [FILE]`, by default /in/data: a line of JSON to stdout, and the count of each byte to
 * /out/histogram.csv.
 *
 * An ordinary program: it links nothing of Gristmill. Built for wasm32-wasi it is a module. */

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

struct facts {
    uint64_t size;
    uint32_t crc;
    uint32_t adler_low, adler_high;
    uint64_t counts[256];
};

static void fill_crc_table(uint32_t table[256]) {
    for (uint32_t index = 0; index < 256; index++) {
        uint32_t value = index;
        for (int bit = 0; bit < 8; bit++)
            value = (value >> 1) ^ (value & 1 ? 0xedb88320u : 0);
        table[index] = value;
    }
}

static void add(struct facts *facts, const uint32_t table[256], const uint8_t *bytes, size_t length) {
    facts->size += length;
    for (size_t at = 0; at < length; at++) {
        facts->counts[bytes[at]]++;
        facts->crc = (facts->crc >> 8) ^ table[(facts->crc ^ bytes[at]) & 0xff];
        facts->adler_low = (facts->adler_low + bytes[at]) % 65521;
        facts->adler_high = (facts->adler_high + facts->adler_low) % 65521;
    }
}

/* Bits of information in a byte, from 0 (all the same) to 8 (all equally often). */
static double entropy(const struct facts *facts) {
    double bits = 0;
    for (int byte = 0; byte < 256; byte++) {
        if (facts->counts[byte] == 0)
            continue;
        double share = (double)facts->counts[byte] / (double)facts->size;
        bits -= share * log2(share);
    }
    return bits;
}

static int write_histogram(const char *path, const struct facts *facts) {
    FILE *file = fopen(path, "w");
    if (!file)
        return -1;
    fprintf(file, "byte,count\n");
    for (int byte = 0; byte < 256; byte++)
        fprintf(file, "%d,%" PRIu64 "\n", byte, facts->counts[byte]);
    int failed = ferror(file);
    return fclose(file) != 0 || failed ? -1 : 0;
}

int main(int argc, char **argv) {
    const char *path = argc > 1 ? argv[1] : "/in/data";
    FILE *file = fopen(path, "rb");
    if (!file) {
        fprintf(stderr, "file-facts: cannot read %s: %s\n", path, strerror(errno));
        return 1;
    }
    static uint8_t buffer[1 << 16];
    struct facts facts = {.crc = 0xffffffffu, .adler_low = 1};
    uint32_t table[256];
    size_t length;
    fill_crc_table(table);
    while ((length = fread(buffer, 1, sizeof buffer, file)) > 0)
        add(&facts, table, buffer, length);
    if (ferror(file)) {
        fprintf(stderr, "file-facts: cannot read %s to its end: %s\n", path, strerror(errno));
        return 1;
    }
    fclose(file);
    if (write_histogram("/out/histogram.csv", &facts) != 0) {
        fprintf(stderr, "file-facts: cannot write /out/histogram.csv: %s\n", strerror(errno));
        return 1;
    }
    printf("{\"size\": %" PRIu64 ", \"crc32\": \"%08" PRIx32 "\", \"adler32\": \"%04" PRIx32 "%04" PRIx32
           "\", \"entropy\": %.4f}\n",
           facts.size, ~facts.crc, facts.adler_high, facts.adler_low, entropy(&facts));
    return 0;
}
