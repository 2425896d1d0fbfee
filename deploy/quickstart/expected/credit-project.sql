-- 重大项目信用监测
SELECT
    project_code,
    name,
    owner_uscc,
    total_investment,
    CASE WHEN contact_name LIKE '欧阳%' THEN '欧阳' || substr('****', 1, length(contact_name) - 2) ELSE substr(contact_name, 1, 1) || substr('****', 1, length(contact_name) - 1) END AS contact_name,
    substr(contact_phone, 1, 3) || '****' || substr(contact_phone, 8, 4) AS contact_phone
FROM project
WHERE status <> '90'
