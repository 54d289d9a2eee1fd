/* banned.h - library calls that are unsafe, or whose safe twin is in this tree, do not compile.
 *
 * Include it last in every .c file. */
#ifndef WK_BASE_BANNED_H
#define WK_BASE_BANNED_H

/* Fortified headers define these two as macros. */
#undef sprintf
#undef vsprintf

#pragma GCC poison gets strcpy strcat sprintf vsprintf strtok strncpy strncat
#pragma GCC poison atoi atol atoll atof system popen tmpnam tempnam mktemp
#pragma GCC poison gmtime localtime ctime asctime

#endif
