#include "cli/interrupt.h"

#include <signal.h>
#include <stddef.h>
#include <string.h>
#include <unistd.h>

#include "base/banned.h"

static atomic_bool cancel;
static atomic_int came; /* the signal's number */
static atomic_bool end_at_once, print_summary;
static _Atomic(const char *) goes_on; /* said at the end */

/* Async-signal-safe: the line is ready made. */
static void write_summary(int signal_number)
{
    static const char line_int[] = "{\"type\":\"summary\",\"exit\":130}\n";
    static const char line_term[] = "{\"type\":\"summary\",\"exit\":143}\n";
    ssize_t ignored;

    if (signal_number == SIGINT)
        ignored = write(STDOUT_FILENO, line_int, sizeof(line_int) - 1);
    else
        ignored = write(STDOUT_FILENO, line_term, sizeof(line_term) - 1);
    (void)ignored;
}

static void say(const char *text)
{
    ssize_t ignored = write(STDERR_FILENO, text, strlen(text));

    (void)ignored;
}

static void tell_goes_on(void)
{
    bool json = atomic_load(&print_summary);
    const char *text = atomic_load(&goes_on);

    if (!text)
        return;
    say(json ? "{\"type\":\"note\",\"message\":\"" : "\n");
    say(text);
    say(json ? "\"}\n" : "\n");
}

static void on_signal(int signal_number)
{
    bool hangup = signal_number == SIGHUP;
    /* Kernel and shell may each tell that the terminal is gone: nobody is impatient. */
    bool second = atomic_exchange(&cancel, true) && !hangup;

    if (hangup)
        signal_number = SIGTERM;
    atomic_store(&came, signal_number);
    if (!second && !atomic_load(&end_at_once))
        return;
    tell_goes_on();
    if (atomic_load(&print_summary))
        write_summary(signal_number);
    _exit(128 + signal_number);
}

const atomic_bool *interrupt_watch(void)
{
    struct sigaction action = {.sa_handler = on_signal}, hangup;

    sigemptyset(&action.sa_mask);
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    sigaction(SIGHUP, NULL, &hangup);
    if (hangup.sa_handler != SIG_IGN) /* as under nohup */
        sigaction(SIGHUP, &action, NULL);
    return &cancel;
}

void interrupt_at_once(bool at_once, bool json, const char *still)
{
    atomic_store(&print_summary, json);
    atomic_store(&goes_on, at_once ? still : NULL);
    atomic_store(&end_at_once, at_once);
}

int interrupt_exit_code(void)
{
    int signal_number = atomic_load(&came);

    return signal_number ? 128 + signal_number : 0;
}
