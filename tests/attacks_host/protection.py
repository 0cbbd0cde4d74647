"""Which runtime holds against which attack: docs/security.md says "yes" only where a test here is marked so."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.support.hostile import USERS

PENDING: tuple[str, ...] = (
    "test_a_descriptor_kept_over_a_second_chroot_does_not_lead_out[chroot-root]",
    "test_a_descriptor_kept_over_a_second_chroot_does_not_lead_out[userns-root]",
    "test_a_directory_handed_into_nested_chroots_does_not_lead_out[chroot-root]",
    "test_a_directory_handed_into_nested_chroots_does_not_lead_out[userns-root]",
    "test_a_disk_s_node_of_an_image_can_t_be_opened[chroot-1234]",
    "test_a_disk_s_node_of_an_image_can_t_be_opened[chroot-root]",
    "test_a_disk_s_node_of_an_image_can_t_be_opened[userns-1234]",
    "test_a_disk_s_node_of_an_image_can_t_be_opened[userns-root]",
    "test_a_second_chroot_does_not_lead_out[chroot-root]",
    "test_a_second_chroot_does_not_lead_out[userns-root]",
    "test_calls_of_the_machine_s_administrator_are_refused[chroot-1234-io_uring_setup]",
    "test_calls_of_the_machine_s_administrator_are_refused[chroot-root-io_uring_setup]",
    "test_calls_of_the_machine_s_administrator_are_refused[userns-1234-io_uring_setup]",
    "test_core_pattern_can_t_be_written[chroot-root]",
    "test_descriptors_of_processes_do_not_lead_out[chroot-1234]",
    "test_descriptors_of_processes_do_not_lead_out[chroot-root]",
    "test_descriptors_of_processes_do_not_lead_out[userns-1234]",
    "test_descriptors_of_processes_do_not_lead_out[userns-root]",
    "test_descriptors_of_the_caller_are_closed[chroot-1234]",
    "test_descriptors_of_the_caller_are_closed[chroot-root]",
    "test_descriptors_of_the_caller_are_closed[proot-1234]",
    "test_descriptors_of_the_caller_are_closed[proot-root]",
    "test_descriptors_of_the_caller_are_closed[userns-1234]",
    "test_descriptors_of_the_caller_are_closed[userns-root]",
    "test_host_programs_can_t_be_overwritten_by_proc_self_exe[chroot-root-command-alone]",
    "test_host_programs_can_t_be_overwritten_by_proc_self_exe[chroot-root-command-with an argument]",
    "test_host_programs_can_t_be_overwritten_by_proc_self_exe[chroot-root-env-alone]",
    "test_host_programs_can_t_be_overwritten_by_proc_self_exe[chroot-root-env-with an argument]",
    "test_keys_of_the_caller_can_t_be_read[chroot-1234]",
    "test_keys_of_the_caller_can_t_be_read[chroot-root]",
    "test_keys_of_the_caller_can_t_be_read[userns-1234]",
    "test_keys_of_the_caller_can_t_be_read[userns-root]",
    "test_keys_of_the_caller_can_t_be_read_by_32_bit_calls[chroot-1234]",
    "test_keys_of_the_caller_can_t_be_read_by_32_bit_calls[chroot-root]",
    "test_keys_of_the_caller_can_t_be_read_by_32_bit_calls[userns-1234]",
    "test_no_disk_can_be_reached_by_mknod[chroot-root]",
    "test_no_setting_below_proc_sys_can_be_written[chroot-1234]",
    "test_no_setting_below_proc_sys_can_be_written[chroot-root]",
    "test_nothing_else_in_proc_can_be_written[chroot-root]",
    "test_nothing_is_typed_into_the_caller_s_shell[chroot-1234-32-bit call]",
    "test_nothing_is_typed_into_the_caller_s_shell[chroot-1234-high bits]",
    "test_nothing_is_typed_into_the_caller_s_shell[chroot-1234-usual]",
    "test_nothing_is_typed_into_the_caller_s_shell[chroot-root-32-bit call]",
    "test_nothing_is_typed_into_the_caller_s_shell[chroot-root-high bits]",
    "test_nothing_is_typed_into_the_caller_s_shell[chroot-root-usual]",
    "test_nothing_is_typed_into_the_caller_s_shell[userns-1234-32-bit call]",
    "test_nothing_is_typed_into_the_caller_s_shell[userns-1234-high bits]",
    "test_nothing_is_typed_into_the_caller_s_shell[userns-1234-usual]",
    "test_other_terminals_of_the_user_can_t_be_read[userns-1234]",
    "test_other_terminals_of_the_user_can_t_be_read[userns-root]",
    "test_paths_swapped_during_starts_do_not_lead_out[chroot]",
    "test_paths_swapped_during_starts_do_not_lead_out[userns]",
    "test_programs_in_relative_directories_of_path_are_not_run[chroot]",
    "test_programs_in_relative_directories_of_path_are_not_run[proot]",
    "test_programs_in_relative_directories_of_path_are_not_run[userns]",
    "test_programs_of_start_sh_can_t_be_reached[userns-root]",
    "test_root_and_cwd_of_processes_do_not_lead_out[userns-root]",
    "test_root_has_the_capabilities_of_containers_without_mknod[chroot-1234]",
    "test_root_has_the_capabilities_of_containers_without_mknod[chroot-root]",
    "test_session_files_are_not_written_through_a_link[chroot]",
    "test_session_files_are_not_written_through_a_link[proot]",
    "test_session_files_are_not_written_through_a_link[userns]",
    "test_settings_of_the_network_can_t_be_written[chroot-root]",
    "test_shared_memory_of_the_host_can_t_be_attached[chroot-1234]",
    "test_shared_memory_of_the_host_can_t_be_attached[chroot-root]",
    "test_shared_memory_of_the_host_can_t_be_attached[userns-1234]",
    "test_shared_memory_of_the_host_can_t_be_attached[userns-root]",
    "test_the_console_s_selection_can_t_be_pasted[chroot-1234]",
    "test_the_console_s_selection_can_t_be_pasted[chroot-root]",
    "test_the_console_s_selection_can_t_be_pasted[userns-1234]",
    "test_the_log_in_tmpdir_has_no_predictable_name[chroot]",
    "test_the_log_in_tmpdir_has_no_predictable_name[proot]",
    "test_the_log_in_tmpdir_has_no_predictable_name[userns]",
    "test_the_log_is_not_written_through_a_hard_link[chroot]",
    "test_the_log_is_not_written_through_a_link[chroot]",
    "test_the_log_is_not_written_through_a_link[proot]",
    "test_the_log_is_not_written_through_a_link[userns]",
    "test_what_other_runtimes_mask_is_masked[chroot-1234]",
    "test_what_other_runtimes_mask_is_masked[chroot-root]",
    "test_what_other_runtimes_mask_is_masked[userns-1234]",
    "test_what_other_runtimes_mask_is_masked[userns-root]",
    "test_with_small_tools_the_root_does_not_lead_out_either[busybox and busybox-userns]",
    "test_with_small_tools_the_root_does_not_lead_out_either[busybox and busybox-chroot]",
    "test_with_small_tools_the_root_does_not_lead_out_either[busybox and bash-userns]",
    "test_with_small_tools_the_root_does_not_lead_out_either[busybox and bash-chroot]",
    "test_with_small_tools_the_root_does_not_lead_out_either[toybox and mksh-userns]",
    "test_with_small_tools_the_root_does_not_lead_out_either[toybox and mksh-chroot]",
    "test_host_programs_can_t_be_overwritten_by_proc_self_exe[chroot-root-init-alone]",
    "test_host_programs_can_t_be_overwritten_by_proc_self_exe[chroot-root-init-with an argument]",
    "test_host_programs_can_t_be_overwritten_by_proc_self_exe[chroot-root-without a shell-alone]",
    "test_host_programs_can_t_be_overwritten_by_proc_self_exe[chroot-root-without a shell-with an argument]",
    "test_groups_of_the_host_s_processes_can_t_be_changed[userns-root]",
    "test_groups_of_the_host_s_processes_can_t_be_changed[userns-1234]",
)
"""Tests that are known to fail, by their names without the module. Each is expected to fail (xfail, strict)."""


def protects(*runtimes: str, users: tuple[str, ...] = USERS) -> Callable[[Any], Any]:
    """Mark a test for the runtimes that hold against it; it gets `runtime` and, unless there is one, `user`."""

    def mark(function: Any) -> Any:
        function.protects = runtimes
        function = pytest.mark.parametrize("runtime", runtimes)(function)
        return pytest.mark.parametrize("user", users)(function) if users else function

    return mark
