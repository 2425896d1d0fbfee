-- 招标项目关联
SELECT
    project_code,
    name,
    total_investment,
    owner_name,
    owner_uscc,
    status
FROM project
