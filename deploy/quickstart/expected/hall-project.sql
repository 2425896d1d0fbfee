-- 并联审批事项关联
SELECT
    project_code,
    name,
    approval_type,
    division,
    apply_date,
    owner_name,
    owner_uscc,
    status
FROM project
